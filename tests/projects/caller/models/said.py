import ctypes
import logging
import os
import subprocess
import sys
import warnings


def model(dbt, session):
    print("print")
    sys.stdout.buffer.write(b"buffer\n")
    sys.stdout.flush()
    os.write(sys.stdout.fileno(), b"descriptor\n")
    os.write(1, b"not UTF-8: \xff\n")
    subprocess.run(["echo", "child"], check=True)
    ctypes.CDLL(None).puts(b"C library")
    ctypes.CDLL(None).fflush(None)
    print("stderr", file=sys.stderr)
    os.write(2, b"descriptor of stderr\n")
    subprocess.run("echo child > /dev/stderr", shell=True, check=True)
    warnings.warn("warned", stacklevel=1)
    logging.getLogger("relay_test").warning("logged without a handler")
    logging.warning("logged")
    print("begun ", end="")
    return session.sql("select 1 as one")
