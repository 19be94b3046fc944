package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

// filling is an app that takes all the disk there is, and tries to leave its
// quota.
const filling = `
import errno, fcntl, os

def fill():
    with open("/srv/foo/data/big", "wb", 0) as f:
        for _ in range(16):
            f.write(bytes(1 << 20))

def many():
    for i in range(200):
        open("/srv/foo/data/%d" % i, "w").close()

def leave():
    with open("/srv/foo/data/big") as f:
        attr = bytearray(28)
        fcntl.ioctl(f, 0x801c581f, attr)
        attr[12:16] = bytes(4)
        fcntl.ioctl(f, 0x401c5820, bytes(attr))

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    try:
        globals()[environ["PATH_INFO"][1:]]()
    except OSError as e:
        return [errno.errorcode[e.errno].encode()]
    return [b"done"]
`

// quotaDisk mounts an ext4 with project quotas at a directory, for as long as t
// and what it starts afterwards live.
func quotaDisk(t *testing.T, at string) {
	t.Helper()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	run("truncate", "-s", "64M", image)
	// Copies stay in the test's domain; the programs enter ones that may not see
	// its files.
	run("cp", "/sbin/mkfs.ext4", "/bin/mount", dir)
	run(dir+"/mkfs.ext4", "-q", "-F", "-O", "project,quota", "-E", "quotatype=prjquota", image)
	run("mkdir", "-p", at)
	run("modprobe", "-a", "loop", "quota_v2")
	run(dir+"/mount", "-o", "loop,prjquota", image, at)
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	})
	run("restorecon", "-RF", at)
}

// TestQuota: the kernel bounds what an app's directory takes, the app cannot
// leave that, and the host still writes.
func TestQuota(t *testing.T) {
	testenv.Need(t, testenv.Guest)
	quotaDisk(t, "/srv/foo")
	h := newHost(t)
	h.write("/srv/foo/app.py", filling)
	h.run("install", "-d", "-o", "foo", "-g", "foo", "/srv/foo/data")
	h.run("restorecon", "-RF", "/srv/foo/data")
	said := func(v []string, path, want string) {
		t.Helper()
		if code, body, err := get(v[0], path); err != nil || code != 200 || body != want {
			t.Errorf("%s: %d %q %v, want %q", path, code, body, err, want)
		}
	}
	h.drop("foo", appLines("foo", "disk-quota = 8M", "inode-quota = 100"))
	v := h.up("foo")
	said(v.Listen, "/fill", "EDQUOT")
	said(v.Listen, "/many", "EDQUOT")
	said(v.Listen, "/leave", "EPERM")
	said(v.Listen, "/fill", "EDQUOT")
	if st, err := os.Stat("/srv/foo/data/big"); err != nil || st.Size() == 0 || st.Size() > 8<<20 {
		t.Errorf("the file: %v, %v; want some of 8M", st, err)
	}
	if err := os.WriteFile("/srv/foo/data/of-root", make([]byte, 1<<20), 0o644); err != nil {
		t.Errorf("the host's own write: %v", err)
	}
	h.until("status shows it", func() bool {
		v := h.status("foo")
		return v.DiskBytes != nil && *v.DiskBytes > 4<<20 && v.DiskMaxBytes != nil && *v.DiskMaxBytes == 8<<20 && v.DiskInodesMax != nil && *v.DiskInodesMax == 100
	})
	if text := h.run("liege", "status", "foo"); !strings.Contains(text, "of 100 files") {
		t.Errorf("liege status does not say it:\n%s", text)
	}

	// Without the lines nothing is bounded any more, whatever number the files
	// still carry; and that number is what bounds them again.
	h.drop("foo", appLines("foo"))
	v = h.up("foo")
	said(v.Listen, "/fill", "done")
	said(v.Listen, "/many", "done")
	if v := h.status("foo"); v.DiskMaxBytes != nil || v.DiskInodesMax != nil {
		t.Errorf("status has limits that are lifted: %+v", v)
	}
	h.drop("foo", appLines("foo", "disk-quota = 24M"))
	v = h.up("foo")
	said(v.Listen, "/fill", "done")
	h.until("what was written meanwhile is counted", func() bool {
		v := h.status("foo")
		return v.DiskBytes != nil && *v.DiskBytes > 16<<20 && v.DiskInodesMax == nil
	})
	h.drop("foo", appLines("foo", "disk-quota = 8M"))
	said(h.up("foo").Listen, "/fill", "EDQUOT")
}
