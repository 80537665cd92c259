"""Who may see what belongs to the whole server: keys with `admin = true`; and everybody, where there is only one tenant or none."""

from trunkline.config.schema import ServerSettings


class Privilege:
    """Knows them by the name of their tenant."""

    def __init__(self, settings: ServerSettings) -> None:
        self._admins = frozenset(key.name for key in settings.keys if key.admin)
        self._alone = not settings.keys

    def sees_all(self, tenant: str) -> bool:
        return self._alone or tenant in self._admins
