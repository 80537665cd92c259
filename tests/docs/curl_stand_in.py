"""As much of curl as the pages use, for a machine that has none: -s -N -i, -H, -d, -X, and one URL."""

import getopt
import sys
import urllib.error
import urllib.request


def main(arguments: list[str]) -> int:
    options, urls = getopt.gnu_getopt(arguments, "sSNiH:d:X:")
    headers = dict(value.split(": ", 1) for flag, value in options if flag == "-H")
    data = next((value.encode() for flag, value in options if flag == "-d"), None)
    method = next((value for flag, value in options if flag == "-X"), None)
    request = urllib.request.Request(urls[0], data, headers, method=method)
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        if ("-i", "") in options:
            sys.stdout.write(f"HTTP/1.1 {answer.status} {answer.reason}\r\n")
            sys.stdout.writelines(f"{name}: {value}\r\n" for name, value in answer.headers.items())
            sys.stdout.write("\r\n")
        sys.stdout.flush()
        sys.stdout.buffer.write(answer.read())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
