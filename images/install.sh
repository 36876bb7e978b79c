#!/bin/sh
# Used by every Dockerfile here: install one dependency set into /opt/nightdrive, and keep nothing that only building needs.
set -eu
requirements=$1
python3 -m venv --without-pip /opt/nightdrive
# Settings of the building machine's pip (index, certificate, local wheels) come as a secret and stay in no layer.
[ ! -f /run/secrets/pip ] || export PIP_CONFIG_FILE=/run/secrets/pip
python3 -m venv /tmp/installer
/tmp/installer/bin/pip --python /opt/nightdrive/bin/python install --no-cache-dir --no-compile \
    --disable-pip-version-check -r "$requirements" -c constraints.txt
/tmp/installer/bin/pip --python /opt/nightdrive/bin/python check
site=$(/opt/nightdrive/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# Test suites and tools, C++ headers and static libraries of the packages: no stage reads them.
find "$site" -type d \( -name tests -o -name test -o -name testing_data \) -path '*/site-packages/*/*' \
    ! -path '*/torch/testing*' ! -path '*/numpy/testing*' ! -path '*/pandas/_testing*' \
    -prune -exec rm -rf {} +
find "$site" -path '*/torch/bin/*' ! -name torch_shm_manager -type f -delete
find "$site" \( -name '*.a' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.h' -o -name '*.hpp' -o -name '*.cuh' \) -type f -delete
find "$site" -type d -empty -delete
rm -f "$site"/pyarrow/*.cc
/opt/nightdrive/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$site" || true
