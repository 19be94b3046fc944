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
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
	Freezer     Feature = "freezer"     // that of cgroup v1
	SELinux     Feature = "selinux"     // a loaded policy
	NoSELinux   Feature = "no-selinux"  // none: what is asked of SELinux fails
	OldTables   Feature = "ip-tables"   // iptables-legacy in the kernel
	PortRange   Feature = "portrange"   // IP_LOCAL_PORT_RANGE (Linux 6.3)
	OpenTree    Feature = "opentree"    // open_tree, mount_setattr (Linux 5.12)
	Landlock    Feature = "landlock"    // of version 6, with scopes (Linux 6.12)
	NFTables    Feature = "nftables"    // nf_tables and veth, as net = nat needs them
	UserNS      Feature = "userns"      // user namespaces may be made
	Loop        Feature = "loop"        // loop devices, and what makes xfs on them
	FUSE        Feature = "fuse"        // /dev/fuse
	IPv6        Feature = "ipv6"        // ::1
	Python3     Feature = "python3"     // /usr/bin/python3
	Uwsgi       Feature = "uwsgi"
	Nginx       Feature = "nginx"
	Curl        Feature = "curl"
	Perl        Feature = "perl"
	Flask       Feature = "flask"     // Debian's python3-flask
	Django      Feature = "django"    // Debian's python3-django
	Starlette   Feature = "starlette" // Debian's python3-starlette
	Gevent      Feature = "gevent"    // Debian's python3-gevent
	GRPC        Feature = "grpc"      // Debian's python3-grpcio
	Paste       Feature = "paste"     // Debian's python3-pastedeploy
	Lua         Feature = "lua"       // a program of this name
	Ruby        Feature = "ruby"      // Debian's ruby with rack and bundler
	Plack       Feature = "plack"     // Debian's perl with libplack-perl
	PHP         Feature = "php-cgi"
	WordPress   Feature = "wordpress" // Debian's, with php-mysql, and the programs of MariaDB
	Node        Feature = "node"
	Java        Feature = "java" // that of a JDK, 11 or later
	Dpkg        Feature = "dpkg"
	RPM         Feature = "rpm"
	Mmdebstrap  Feature = "mmdebstrap"
	VM          Feature = "vm"    // QEMU and what makes a Debian system for it
	Guest       Feature = "guest" // inside a system of package e2e/vm, with our package
	Micro       Feature = "micro" // inside a micro machine of package e2e/vm
	Enforcing   Feature = "enforcing"
	Semodule    Feature = "semodule"     // semodule, setfiles and secilc: what changes policy
	DebPolicy   Feature = "debianpolicy" // Debian's default policy, in its store
	Setools     Feature = "setools"      // sesearch
)

// What marks the machines of package e2e/vm.
const (
	GuestMark = "/etc/liege-vm"
	MicroMark = "/liege-micro"
)

// vmPrograms make and boot a machine.
var vmPrograms = []string{"qemu-system-x86_64", "mmdebstrap", "setfiles", "mke2fs", "secilc"}

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
	case Freezer:
		return haveFile("/sys/fs/cgroup/freezer/cgroup.procs")
	case SELinux:
		return haveFile("/sys/fs/selinux/enforce")
	case NoSELinux:
		if Have(SELinux) == nil {
			return errors.New("this machine has SELinux")
		}
		return nil
	case OldTables:
		return haveFile("/proc/net/ip_tables_names")
	case PortRange:
		return havePortRange()
	case OpenTree:
		return haveOpenTree()
	case Landlock:
		return haveLandlock()
	case NFTables:
		return haveNFTables()
	case UserNS:
		return haveUserNS()
	case Loop:
		return errors.Join(haveFile("/dev/loop-control"), havePrograms("mkfs.xfs", "mount", "umount"))
	case FUSE:
		return haveFile("/dev/fuse")
	case IPv6:
		return haveIPv6()
	case VM:
		return haveVM()
	case Guest:
		return haveFile(GuestMark)
	case Micro:
		return haveFile(MicroMark)
	case Enforcing:
		return haveEnforcing()
	case Semodule:
		return havePrograms("semodule", "setfiles", "secilc")
	case DebPolicy:
		return haveFile("/var/lib/selinux/default/active/modules/100/base/cil")
	case Setools:
		return haveProgram("sesearch")
	case Python3:
		return haveFile(SystemPython)
	case Paste:
		return haveFile("/usr/lib/python3/dist-packages/paste/deploy")
	case Flask, Django, Starlette, Gevent, GRPC:
		return haveFile("/usr/lib/python3/dist-packages/" + string(f))
	case Ruby:
		return errors.Join(haveFile("/usr/bin/ruby"), haveFile("/usr/bin/bundle"), haveGlob("/usr/share/rubygems-integration/all/gems/rack-2.*/lib/rack/lint.rb"))
	case WordPress:
		return errors.Join(haveFile("/usr/share/wordpress/wp-content/themes/twentytwentythree"), haveGlob("/usr/lib/php/*/mysqli.so"), havePrograms("/usr/sbin/mariadbd", "mariadb-install-db", "mariadb"))
	case Java:
		return errors.Join(haveFile("/usr/bin/java"), haveFile("/usr/bin/javac"))
	case Plack:
		return errors.Join(haveFile("/usr/bin/perl"), haveFile("/usr/share/perl5/Plack/Util.pm"))
	case Uwsgi, Nginx, Curl, Perl, Lua, PHP, Node, Dpkg, RPM, Mmdebstrap:
		return haveProgram(string(f))
	}
	return fmt.Errorf("unknown feature %q", f)
}

// haveGlob is for files whose names hold a version.
func haveGlob(pattern string) error {
	if found, err := filepath.Glob(pattern); err != nil || len(found) == 0 {
		return fmt.Errorf("no %s", pattern)
	}
	return nil
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

// haveLandlock asks for the version.
func haveLandlock() error {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return errno
	}
	if version < 6 {
		return fmt.Errorf("Landlock has version %d", version)
	}
	return nil
}

func havePortRange() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, 51, 0)
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

// haveNFTables asks nf_tables which generation of rules it is at.
func haveNFTables() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return os.NewSyscallError("netlink socket", err)
	}
	defer unix.Close(fd)
	const length = unix.SizeofNlMsghdr + 4 // and an nfgenmsg of zeros
	ask := make([]byte, length)
	binary.NativeEndian.PutUint32(ask, length)
	binary.NativeEndian.PutUint16(ask[4:], unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST)
	if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("netlink", err)
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return os.NewSyscallError("netlink", err)
	}
	if n >= unix.SizeofNlMsghdr+4 && binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR {
		return fmt.Errorf("nf_tables: %w", unix.Errno(-int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:]))))
	}
	return nil
}

// haveIPv6 asks for the address of lo.
func haveIPv6() error {
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		return err
	}
	return ln.Close()
}

func haveUserNS() error {
	text, err := os.ReadFile("/proc/sys/user/max_user_namespaces")
	if err == nil && strings.TrimSpace(string(text)) == "0" {
		err = errors.New("no user namespace may be made (user.max_user_namespaces)")
	}
	return err
}

func haveVM() error {
	if err := Have(Root); err != nil {
		return err
	}
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("its machines are amd64; this one is %s", runtime.GOARCH)
	}
	return havePrograms(vmPrograms...)
}

func havePrograms(names ...string) error {
	for _, p := range names {
		if err := haveProgram(p); err != nil {
			return err
		}
	}
	return nil
}

func haveEnforcing() error {
	b, err := os.ReadFile("/sys/fs/selinux/enforce")
	if err == nil && string(b) != "1" {
		err = errors.New("SELinux is permissive")
	}
	return err
}

func haveFile(path string) error {
	_, err := os.Stat(path)
	return err
}

func haveProgram(name string) error {
	if _, err := exec.LookPath(name); err == nil {
		return nil
	}
	return haveFile("/usr/sbin/" + name)
}
