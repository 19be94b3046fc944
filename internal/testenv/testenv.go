// Package testenv tells tests what the machine offers, and whether they left
// anything behind.
//
// A test that needs more than Go says so with Need: where the machine lacks
// it, the test is skipped with the reason, but where the environment variable
// TEST_HAVE (a comma list of features) promises it, the test fails, so that a
// machine meant to run everything cannot silently run less.
//
// A test that makes goroutines, descriptors, mounts, cgroups or processes
// begins with Leaks.
package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A Feature is something a machine may lack.
type Feature string

// The features.
const (
	Root        Feature = "root"        // effective uid 0 with CAP_SYS_ADMIN
	CgroupV1    Feature = "cgroupv1"    // controllers on cgroup v1 (hybrid too)
	CgroupV2    Feature = "cgroupv2"    // a cgroup2 tree (hybrid too): cgroup.kill, the guard
	SysResource Feature = "sysresource" // CAP_SYS_RESOURCE: raise hard limits
	SELinux     Feature = "selinux"     // a loaded policy
	OpenTree    Feature = "opentree"    // open_tree, mount_setattr (Linux 5.12)
	Python3     Feature = "python3"     // /usr/bin/python3
	Uwsgi       Feature = "uwsgi"
	Nginx       Feature = "nginx"
	Curl        Feature = "curl"
	Flask       Feature = "flask"  // Debian's python3-flask
	Django      Feature = "django" // Debian's python3-django
)

// SystemPython is the interpreter tests use: another one on PATH may be
// somebody's private build.
const SystemPython = "/usr/bin/python3"

// Need skips t unless the machine has every feature, or fails it if TEST_HAVE
// promised the one that is missing.
func Need(t testing.TB, features ...Feature) {
	t.Helper()
	promised := strings.Split(os.Getenv("TEST_HAVE"), ",")
	for _, f := range features {
		err := Have(f)
		if err == nil {
			continue
		}
		if slices.Contains(promised, string(f)) {
			t.Fatalf("TEST_HAVE promises %s: %v", f, err)
		}
		t.Skipf("needs %s: %v", f, err)
	}
}

// Have returns nil if the machine has f, else the reason.
func Have(f Feature) error {
	switch f {
	case Root:
		if os.Geteuid() != 0 {
			return errors.New("not root")
		}
		return haveCap(unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN")
	case SysResource:
		return haveCap(unix.CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE")
	case CgroupV1:
		if len(v1Mounts()) == 0 {
			return errors.New("no cgroup v1 controller is mounted")
		}
		return nil
	case CgroupV2:
		if unifiedMount() == "" {
			return errors.New("no cgroup2 is mounted")
		}
		return nil
	case SELinux:
		_, err := os.Stat("/sys/fs/selinux/enforce")
		return err
	case OpenTree:
		return haveOpenTree()
	case Python3:
		_, err := os.Stat(SystemPython)
		return err
	case Flask, Django:
		_, err := os.Stat("/usr/lib/python3/dist-packages/" + string(f))
		return err
	case Uwsgi, Nginx, Curl:
		return haveProgram(string(f))
	}
	return fmt.Errorf("unknown feature %q", f)
}

func haveCap(bit uint, name string) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	if data[bit/32].Effective&(1<<(bit%32)) == 0 {
		return errors.New("no " + name)
	}
	return nil
}

func haveOpenTree() error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV}
	return os.NewSyscallError("mount_setattr", unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr))
}

func haveProgram(name string) error {
	if _, err := exec.LookPath(name); err == nil {
		return nil
	}
	_, err := os.Stat("/usr/sbin/" + name)
	return err
}
