"""Every wrong configuration ends in one sentence: file, key, what was seen, what would be right."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from trunkline.config.load import build_config, load_config
from trunkline.config.schema import Config, EmbeddedSettings, HttpSettings, PythonSettings, ScriptedSettings
from trunkline.model.errors import ConfigError

LOCAL = '[backends.local]\ntype = "scripted"\n'


def load(
    folder: Path, text: str, *, environ: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> Config:
    path = folder / "trunkline.toml"
    path.write_text(textwrap.dedent(text))
    return load_config(path, environ=environ or {}, flags=flags)


def refusal(
    folder: Path, text: str, *, environ: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, environ=environ, flags=flags)
    return caught.value.message.replace(f"{folder}/", "")


def test_every_section_is_decoded_into_its_settings(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        [server]
        port = 9000
        api_keys = ["${KEY}"]
        default_model = "fast"

        [[server.keys]]
        name = "alice"
        key = "alice-key"
        admin = true

        [backends.local]
        type = "embedded"

        [backends.gpu]
        type = "http"
        endpoints = ["http://127.0.0.1:8000/v1"]
        idle_timeout_s = 30

        [backends.support]
        type = "python"
        target = "support_bot:agent"

        [backends.demo]
        type = "scripted"

        [[models]]
        name = "fast"
        routes = [{ backend = "gpu", model = "llama" }, { backend = "local" }]
        """,
        environ={"KEY": "secret"},
    )
    assert config.server.port == 9000
    assert config.server.api_keys == ("secret",)
    assert config.server.keys[0].admin
    assert [type(settings) for settings in config.backends.values()] == [
        EmbeddedSettings,
        HttpSettings,
        PythonSettings,
        ScriptedSettings,
    ]
    assert [route.backend for route in config.models[0].routes] == ["gpu", "local"]


WRONG_FILES = {
    "syntax": ("[server\n", "config trunkline.toml: not valid TOML: Expected ']' at the end of a table declaration"),
    "syntax_line": ("[server]\nport = \n", "(at line 2, column 8)"),
    "unknown_table": (
        "[sever]\n" + LOCAL,
        (
            "config trunkline.toml: sever: unknown setting 'sever' (did you mean 'server'?); "
            "known: 'backends', 'cache', 'idempotency', 'models', 'runs', 'server', 'sessions', 'store'"
        ),
    ),
    "table_of_a_later_version": (
        "[rollouts]\nmax_sessions = 60\n" + LOCAL,
        (
            "config trunkline.toml: rollouts: 'rollouts' is not in this version of trunkline; "
            "known: 'backends', 'cache', 'idempotency', 'models', 'runs', 'server', 'sessions', 'store'"
        ),
    ),
    "store_path_without_scheme": (
        '[store]\nurl = "data/trunkline.db"\n' + LOCAL,
        (
            "config trunkline.toml: store.url: expected 'sqlite:///FILE' or 'memory:', got 'data/trunkline.db' "
            "(did you mean 'sqlite:///data/trunkline.db'?)"
        ),
    ),
    "store_in_memory_as_others_spell_it": (
        '[store]\nurl = ":memory:"\n' + LOCAL,
        "config trunkline.toml: store.url: expected 'sqlite:///FILE' or 'memory:', got ':memory:' (did you mean 'memory:'?)",
    ),
    **{
        f"store_written_as_{url}": (
            f'[store]\nurl = "{url}"\n' + LOCAL,
            f"store.url: expected 'sqlite:///FILE' or 'memory:', got {url!r} (did you mean {meant!r}?)",
        )
        for url, meant in (
            ("sqlite:store.db", "sqlite:///store.db"),
            ("sqlite://store.db", "sqlite:///store.db"),
            ("sqlite://data/store", "sqlite:///data/store"),
            ("sqlite:/var/store.db", "sqlite:////var/store.db"),
            ("sqlite+aiosqlite:///store.db", "sqlite:///store.db"),
            ("file:store.db", "sqlite:///store.db"),
            ("file:///var/store.db", "sqlite:////var/store.db"),
        )
    },
    "store_of_another_kind": (
        '[store]\nurl = "postgresql://me:secret@db/trunkline"\n' + LOCAL,
        "config trunkline.toml: store.url: expected 'sqlite:///FILE' or 'memory:', got 'postgresql://…'",
    ),
    "store_of_nothing": (
        "[store]\nmax_responses = 0\n" + LOCAL,
        "config trunkline.toml: store.max_responses: expected an integer, 1 or more, got 0",
    ),
    "unknown_key": (
        "[server]\nprot = 1\n" + LOCAL,
        "config trunkline.toml: server.prot: unknown setting 'prot' (did you mean 'port'?)",
    ),
    "wrong_type": (
        '[server]\nport = "8400"\n' + LOCAL,
        "config trunkline.toml: server.port: expected an integer from 0 to 65535, got the string '8400'",
    ),
    "boolean_for_integer": (
        "[server]\nport = true\n" + LOCAL,
        "server.port: expected an integer from 0 to 65535, got true",
    ),
    "out_of_range": ("[server]\nport = 65536\n" + LOCAL, "got 65536"),
    "not_finite": ("[server]\nkeepalive_s = inf\n" + LOCAL, "server.keepalive_s: expected a number above 0, got inf"),
    "zero": ("[server]\nkeepalive_s = 0\n" + LOCAL, "server.keepalive_s: expected a number above 0, got 0"),
    "date_for_string": ("[server]\nhost = 2026-01-01\n" + LOCAL, "server.host: expected a string, got a date"),
    "string_for_list": (
        '[server]\ncors_origins = "https://a.example"\n' + LOCAL,
        (
            "server.cors_origins: expected a list, each a string, got 'https://a.example' "
            "(did you mean ['https://a.example']?)"
        ),
    ),
    "secret_is_not_repeated": (
        '[server]\napi_keys = "hunter2"\n' + LOCAL,
        "server.api_keys: expected a list, each a non-empty string, got a string",
    ),
    "empty_secret": (
        '[server]\napi_keys = [""]\n' + LOCAL,
        "server.api_keys[0]: expected a non-empty string, got a string",
    ),
    "enum": (
        '[server]\nlog_level = "warn"\n' + LOCAL,
        "server.log_level: unknown value 'warn' (did you mean 'warning'?); known: 'debug', 'error', 'info', 'warning'",
    ),
    "unknown_profile": (
        '[server]\nprofile = "opanai"\n' + LOCAL,
        "server.profile: unknown profile 'opanai' (did you mean 'openai'?)",
    ),
    "profile_of_a_later_version": (
        '[server]\nprofile = "atropos"\n' + LOCAL,
        "'atropos' is not in this version of trunkline",
    ),
    "no_backend": ("[server]\n", "config trunkline.toml: backends: nothing is configured to answer"),
    "backend_without_type": (
        "[backends.a]\n",
        "backends.a.type: missing; it is one of 'embedded', 'http', 'python', 'scripted'",
    ),
    "unknown_type": (
        '[backends.a]\ntype = "htp"\n',
        "backends.a.type: unknown backend type 'htp' (did you mean 'http'?)",
    ),
    "type_of_a_later_version": (
        '[backends.claude]\ntype = "command"\n',
        (
            "backends.claude.type: 'command' is not in this version of trunkline; "
            "known: 'embedded', 'http', 'python', 'scripted'"
        ),
    ),
    "type_is_no_string": ("[backends.a]\ntype = 1\n", "backends.a.type: expected one of 'embedded', 'http'"),
    "backend_is_no_table": (
        'backends = { a = "http" }\n',
        "backends.a: expected a table whose type is one of 'embedded', 'http', 'python', 'scripted', got 'http'",
    ),
    "backends_are_no_table": ("backends = 3\n", "backends: expected a table, got 3"),
    "quoted_name_in_the_path": (
        '[backends."a b"]\ntype = "scripted"\n',
        "backends.\"a b\": a backend's name is letters, digits, '-', '_' and '.', got 'a b'",
    ),
    "setting_of_another_type": (
        '[backends.a]\ntype = "scripted"\ntarget = "x:y"\n',
        "; [backends.NAME] of type 'python' has 'target'",
    ),
    "setting_of_the_server_at_the_top": (
        'api_keys = ["k"]\n' + LOCAL,
        "api_keys: unknown setting 'api_keys'; known: 'backends'",
    ),
    "setting_of_the_server_below_a_backend": (
        '[backends.a]\ntype = "python"\ntarget = "a:b"\napi_keys = ["k"]\n',
        "'timeout_s'; [server] has 'api_keys'",
    ),
    "setting_of_a_backend_below_another_table": (
        LOCAL + '[runs]\non_lost = "restart"\n',
        "runs.on_lost: unknown setting 'on_lost'; known: 'keep_s', 'max_runs'; [backends.NAME] has 'on_lost'",
    ),
    "setting_of_two_other_tables": (
        LOCAL + "[store]\nttl_s = 5\n",
        "known: 'max_age_s', 'max_responses', 'max_sessions', 'url'; [cache] and [idempotency] have 'ttl_s'",
    ),
    "table_for_a_list_of_tables": (
        LOCAL + '[models.fast]\nroutes = ["local"]\n',
        "models: expected a list, each a table, got a table (did you mean [[models]]?)",
    ),
    "list_of_tables_for_tables_with_names": (
        '[[backends]]\ntype = "scripted"\n',
        "backends: expected a table, got a list (did you mean [backends.NAME]?)",
    ),
    "name_for_a_table_of_little_more": (
        LOCAL + '[[models]]\nname = "a"\nroutes = ["local"]\n',
        "models[0].routes[0]: expected a table, got 'local' (did you mean { backend = 'local' }?)",
    ),
    "target_for_a_backend": (
        '[backends]\na = "bot.py:agent"\n',
        "backends.a: expected a table whose type is one of 'embedded', 'http', 'python', 'scripted', got 'bot.py:agent'",
    ),
    "missing_key": (
        '[backends.a]\ntype = "http"\n',
        "backends.a.endpoints: missing; expected a non-empty list, each a string",
    ),
    "dialect_of_a_later_version": (
        '[backends.a]\ntype = "http"\nendpoints = ["http://h/v1"]\ndialect = "vllm"\n',
        "backends.a.dialect: 'vllm' is not in this version of trunkline; known: 'ollama_chat', 'openai_chat'",
    ),
    "no_url": (
        '[backends.local]\ntype = "http"\nendpoints = ["localhost:11434"]\n',
        (
            "config trunkline.toml: backends.local.endpoints[0]: expected an http(s) URL, got 'localhost:11434' "
            "(did you mean 'http://localhost:11434/v1'?)"
        ),
    ),
    "too_deep_a_url": (
        '[backends.a]\ntype = "http"\nendpoints = ["http://h/v1/chat/completions"]\n',
        "(did you mean 'http://h/v1'?)",
    ),
    "other_scheme": (
        '[backends.a]\ntype = "http"\nendpoints = ["ftp://h/v1"]\n',
        "expected an http(s) URL, got 'ftp://h/v1'",
    ),
    "port_of_a_url": (
        '[backends.a]\ntype = "http"\nendpoints = ["http://h:99999/v1"]\n',
        "its port is not from 1 to 65535",
    ),
    "password_is_not_repeated": (
        '[backends.a]\ntype = "http"\nendpoints = ["http://u:hunter2@h/v1?x=1"]\n',
        "expected a base URL without query or fragment, got 'http://h/v1?x=1'",
    ),
    "one_endpoint_twice": (
        '[backends.a]\ntype = "http"\nendpoints = ["http://a/v1", "http://a/v1/"]\n',
        "backends.a.endpoints[1]: is listed twice; to give a server more of the work, raise 'weight'",
    ),
    "one_endpoint_twice_in_other_words": (
        '[backends.a]\ntype = "http"\nendpoints = ["http://a/v1", "http://b/v1", "http://u:p@A:80/v1/"]\n',
        "backends.a.endpoints[2]: is listed twice; to give a server more of the work, raise 'weight'",
    ),
    "one_model_of_a_server_twice": (
        '[backends.a]\ntype = "http"\nendpoints = ["http://a/v1"]\nmodels = ["m", "m"]\n',
        "backends.a.models[1]: 'm' is listed twice",
    ),
    "a_model_of_a_server_without_a_name": (
        '[backends.a]\ntype = "http"\nendpoints = ["http://a/v1"]\nmodels = [""]\n',
        "backends.a.models[0]: expected a printable name, got ''",
    ),
    "queue": (LOCAL + "max_queue = -1\n", "backends.local.max_queue: expected an integer, 0 or more, got -1"),
    "concurrency": (
        LOCAL + "max_concurrency = 0\n",
        "backends.local.max_concurrency: expected an integer, 1 or more, got 0",
    ),
    "target": (
        '[backends.a]\ntype = "python"\ntarget = "my_agent"\n',
        "backends.a.target: expected 'module:attribute' or 'path/file.py:attribute', got 'my_agent'",
    ),
    "same_model_twice": (
        LOCAL + '[[models]]\nname = "a"\nroutes = [{backend = "local"}]\n' * 2,
        "models[1].name: model 'a' is already models[0]",
    ),
    "route_to_nowhere": (
        LOCAL + '[[models]]\nname = "a"\nroutes = [{backend = "local"}, {backend = "locl"}]\n',
        "models[0].routes[1].backend: unknown backend 'locl' (did you mean 'local'?); configured: 'local'",
    ),
    "no_routes": (LOCAL + '[[models]]\nname = "a"\nroutes = []\n', "models[0].routes: expected a non-empty list"),
    "unknown_default": (
        '[server]\ndefault_model = "fats"\n' + LOCAL + '[[models]]\nname = "fast"\nroutes = [{backend = "local"}]\n',
        "server.default_model: unknown model 'fats' (did you mean 'fast'?); known: 'fast'",
    ),
    "unknown_default_beside_an_agent": (
        '[server]\ndefault_model = "suport"\n[backends.a]\ntype = "python"\ntarget = "support.py:agent"\n',
        "server.default_model: unknown model 'suport' (did you mean 'support'?); known: 'support'",
    ),
    "default_by_a_name_that_the_profile_replaces": (
        '[server]\nprofile = "nanobot"\ndefault_model = "bob"\n[backends.a]\ntype = "python"\ntarget = "bob:agent"\n',
        "server.default_model: unknown model 'bob'; known: 'nanobot'",
    ),
    "model_name_without_agent": (
        '[server]\nmodel_name = "a"\n' + LOCAL,
        "server.model_name: names the one python agent",
    ),
    "same_key_twice": (
        '[server]\napi_keys = ["k"]\nkeys = [{name = "a", key = "k"}]\n' + LOCAL,
        "server.keys[0].key: is the same key as server.api_keys[0]",
    ),
    "key_with_line_end": ('[server]\napi_keys = ["k\\n"]\n' + LOCAL, "server.api_keys[0]: contains spaces, line ends"),
    "reserved_tenant": (
        '[server]\nkeys = [{name = "default", key = "k"}]\n' + LOCAL,
        "server.keys[0].name: 'default' is reserved",
    ),
    "open_to_others": (
        '[server]\nhost = "0.0.0.0"\n' + LOCAL,
        "server.host: '0.0.0.0' can be reached from other machines and no API key is configured",
    ),
    "empty_host": ('[server]\nhost = ""\n' + LOCAL, "server.host: expected an address such as '127.0.0.1'"),
    "origin_with_path": (
        '[server]\ncors_origins = ["https://a.example/"]\n' + LOCAL,
        (
            "server.cors_origins[0]: expected an origin exactly as browsers send it, got 'https://a.example/' "
            "(did you mean 'https://a.example'?)"
        ),
    ),
    "no_origin": (
        '[server]\ncors_origins = ["a.example"]\n' + LOCAL,
        "expected an origin such as 'https://app.example'",
    ),
    "same_script_model_twice": (LOCAL + 'models = ["a", "a"]\n', "backends.local.models[1]: 'a' is listed twice"),
    "unset_variable": (
        '[server]\napi_keys = ["${NOT_SET}"]\n' + LOCAL,
        "config trunkline.toml: server.api_keys[0]: environment variable NOT_SET is not set",
    ),
    "broken_reference": ('[server]\nhost = "${a b}"\n' + LOCAL, "server.host: expected ${NAME}, got '${a b}'"),
    "open_reference": ('[server]\nhost = "${a"\n' + LOCAL, "server.host: expected ${NAME}, got '${a'"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_wrong_file_is_refused_with_file_key_and_remedy(case: str, tmp_path: Path) -> None:
    text, expected = WRONG_FILES[case]
    message = refusal(tmp_path, text)
    assert expected in message
    assert message.startswith("config trunkline.toml: ")
    assert message.count("\n") == 0  # one mistake, one line
    assert "hunter2" not in message


def test_what_does_not_fit_together_is_reported_together(tmp_path: Path) -> None:
    text = (
        '[server]\nhost = "0.0.0.0"\ndefault_model = "fats"\ncors_origins = ["a.example"]\n'
        + LOCAL
        + '[[models]]\nname = "fast"\nroutes = [{backend = "local"}]\n'
        + '[[models]]\nname = "slow"\nroutes = [{backend = "locl"}]\n'
    )
    lines = refusal(tmp_path, text).split("\n")
    assert [line.removeprefix("config trunkline.toml: ").partition(": ")[0] for line in lines] == [
        "models[1].routes[0].backend",
        "server.default_model",
        "server.cors_origins[0]",
        "server.host",
    ]


def test_of_many_things_that_do_not_fit_the_first_twenty_are_reported(tmp_path: Path) -> None:
    entries = "".join(f'[[models]]\nname = "m{i}"\nroutes = [{{backend = "no"}}]\n' for i in range(30))
    lines = refusal(tmp_path, LOCAL + entries).split("\n")
    assert (len(lines), lines[-1]) == (21, "… and more")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[server]\ndefault_model = "a"\n[[models]]\nname = "a"\nroutes = [{backend = "x"}]\n', "backends"),
        ('[server]\ndefault_model = "a"\n', "backends"),
        ('[server]\nmodel_name = "a"\n', "backends"),
        ('[server]\ndefault_model = "a"\n' + LOCAL + "models = []\n", "backends.local.models"),
        ('[server]\nhost = ""\nprofile = "hermes"\napi_keys = ["changeme"]\n' + LOCAL, "server.host"),
    ],
)
def test_what_follows_from_another_mistake_is_not_reported_beside_it(text: str, key: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, text)
    assert message.startswith(f"config trunkline.toml: {key}: ")
    assert message.count("\n") == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_loopback_needs_no_key(host: str, tmp_path: Path) -> None:
    assert load(tmp_path, f'[server]\nhost = "{host}"\n{LOCAL}').server.host == host


@pytest.mark.parametrize("keys", ['api_keys = ["k"]', 'keys = [{name = "a", key = "k"}]'])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "my-host"])
def test_any_host_may_be_used_with_a_key(host: str, keys: str, tmp_path: Path) -> None:
    assert load(tmp_path, f'[server]\nhost = "{host}"\n{keys}\n{LOCAL}').server.host == host


def test_two_keys_may_belong_to_one_tenant(tmp_path: Path) -> None:
    entries = '[[server.keys]]\nname = "a"\nkey = "1"\n[[server.keys]]\nname = "a"\nkey = "2"\n'
    assert [entry.name for entry in load(tmp_path, entries + LOCAL).server.keys] == ["a", "a"]


def test_any_default_model_is_accepted_where_any_name_is_answered(tmp_path: Path) -> None:
    text = '[server]\nprofile = "hermes"\ndefault_model = "bot"\n[backends.a]\ntype = "python"\ntarget = "bot:agent"\n'
    assert load(tmp_path, text).server.default_model == "bot"


def test_a_default_model_that_is_known_only_at_run_time_is_accepted(tmp_path: Path) -> None:
    text = '[server]\ndefault_model = "llama"\n[backends.gpu]\ntype = "http"\nendpoints = ["http://h/v1"]\n'
    assert load(tmp_path, text).server.default_model == "llama"


def test_references_are_replaced_anywhere_and_two_dollars_are_one(tmp_path: Path) -> None:
    text = '[backends.local]\ntype = "scripted"\nmodels = ["${A}-${B}", "$$x", "$${A}", "a$b"]\n'
    config = load(tmp_path, text, environ={"A": "1", "B": "${A}"})
    settings = config.backends["local"]
    assert isinstance(settings, ScriptedSettings)
    assert settings.models == ("1-${A}", "$x", "${A}", "a$b")


def test_a_flag_wins_over_a_variable_a_variable_over_the_file_the_file_over_the_default(tmp_path: Path) -> None:
    text = "[server]\nport = 1\n" + LOCAL
    environ = {"TRUNKLINE_PORT": "2"}
    assert load(tmp_path, text, environ=environ, flags={"--port": "3"}).server.port == 3
    assert load(tmp_path, text, environ=environ).server.port == 2
    assert load(tmp_path, text).server.port == 1
    assert load(tmp_path, LOCAL).server.port == 8400


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert load(tmp_path, LOCAL, environ={"TRUNKLINE_PORT": ""}).server.port == 8400


def test_the_key_variable_replaces_the_list_and_opens_any_host(tmp_path: Path) -> None:
    text = '[server]\nhost = "0.0.0.0"\n' + LOCAL
    assert load(tmp_path, text, environ={"TRUNKLINE_API_KEY": "k"}).server.api_keys == ("k",)


@pytest.mark.parametrize(
    ("environ", "flags", "expected"),
    [
        ({"TRUNKLINE_PORT": "x"}, {}, "TRUNKLINE_PORT: expected an integer from 0 to 65535, got the string 'x'"),
        ({"TRUNKLINE_PORT": "7"}, {"--port": "-1"}, "--port: expected an integer from 0 to 65535, got -1"),
        ({}, {"--profile": "x"}, "--profile: unknown profile 'x'; known: 'hermes', 'nanobot', 'nomyo', 'openai'"),
        ({}, {"--host": "0.0.0.0"}, "--host: '0.0.0.0' can be reached from other machines"),
        ({"TRUNKLINE_API_KEY": "a b"}, {}, "TRUNKLINE_API_KEY: contains spaces"),
        ({"TRUNKLINE_LOG_LEVEL": "loud"}, {}, "TRUNKLINE_LOG_LEVEL: unknown value 'loud'"),
    ],
)
def test_a_wrong_override_is_named_as_what_brought_it(
    environ: Mapping[str, str], flags: Mapping[str, str], expected: str, tmp_path: Path
) -> None:
    assert refusal(tmp_path, LOCAL, environ=environ, flags=flags).startswith(expected)


def test_an_override_does_not_hide_a_server_that_is_no_table(tmp_path: Path) -> None:
    assert "server: expected a table, got 3" in refusal(tmp_path, "server = 3\n", flags={"--port": "1"})


def test_a_document_without_a_file_is_refused_by_key_alone() -> None:
    with pytest.raises(ConfigError, match=r"^server\.prot: unknown setting") as caught:
        build_config({"server": {"prot": 1}}, environ={})
    assert (caught.value.file, caught.value.key) == (None, "server.prot")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_config(tmp_path / "none.toml", environ={})
    assert str(tmp_path) in caught.value.message


def test_a_folder_cannot_be_read_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, environ={})


def test_a_file_that_is_not_utf8_says_which_byte(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError, match="is not UTF-8: byte 5 is 0xe9"):
        load_config(path, environ={})


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b"\xef\xbb\xbf" + LOCAL.encode())
    assert "local" in load_config(path, environ={}).backends


def test_nesting_without_end_is_an_error_of_the_file(tmp_path: Path) -> None:
    assert "nested too deep" in refusal(tmp_path, "a = " + "[" * 100_000)


def test_a_key_for_an_upstream_that_no_header_can_carry_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "trunkline.toml"
    file.write_text(
        '[backends.a]\ntype = "http"\nendpoints = ["http://127.0.0.1:9/v1"]\napi_key = "sk-1\\n"\n', encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"backends\.a\.api_key: contains line ends"):
        load_config(file, environ={})


def test_an_integer_with_thousands_of_digits_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "trunkline.toml"
    file.write_text("[server]\nport = " + "9" * 5000 + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_config(file, environ={})


def test_an_agents_file_in_place_of_a_configuration_is_told_what_serves_it(tmp_path: Path) -> None:
    file = tmp_path / "good.py"
    file.write_text("async def agent(turn):\n    yield 'hi'\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"is Python, and a configuration is TOML; .*: trunkline serve .*good\.py:NAME"
    ):
        load_config(file, environ={})


def test_a_key_that_the_environment_sets_too_is_named_by_its_variable(tmp_path: Path) -> None:
    text = '[server]\nkeys = [{name = "a", key = "${TRUNKLINE_API_KEY}"}]\n' + LOCAL
    with pytest.raises(ConfigError, match=r"same key as server.api_keys\[0\], which TRUNKLINE_API_KEY sets"):
        load(tmp_path, text, environ={"TRUNKLINE_API_KEY": "k"})
