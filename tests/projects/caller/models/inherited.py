import json
import locale
import os
import resource
import sys
import tempfile
import time


def model(dbt, session):
    seen = {
        "cwd": os.getcwd(),
        "zone": time.strftime("%H:%M %Z", time.localtime(1767225600)),
        "umask": f"{os.umask(0o022):04o}",
        "temporary": tempfile.gettempdir(),
        "encoding": locale.getpreferredencoding(False),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "file": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "stack": resource.getrlimit(resource.RLIMIT_STACK)[0],
        "bytes": os.environb.get(b"RELAY_TEST_BYTES", b"").hex(),
        "path": [entry for entry in sys.path if "relay_test_path" in entry],
    }
    os.umask(int(seen["umask"], 8))
    return session.sql(f"select '{json.dumps(seen)}' as seen")
