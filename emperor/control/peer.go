package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// peer is who is at the other end, as the kernel says.
type peer struct {
	uid, gid uint32
	pid      int32
	groups   []uint32 // with gid
}

func (p peer) String() string {
	if p.uid == 0 {
		return "root"
	}
	return "uid " + strconv.FormatUint(uint64(p.uid), 10)
}

// peerOf asks SO_PEERCRED and SO_PEERGROUPS.
func peerOf(c *net.UnixConn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var (
		p      peer
		optErr error
	)
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			optErr = err
			return
		}
		p.uid, p.gid, p.pid = cred.Uid, cred.Gid, cred.Pid
		p.groups, optErr = peerGroups(int(fd))
	})
	if err := errors.Join(err, optErr); err != nil {
		return peer{}, err
	}
	p.groups = append(p.groups, p.gid)
	return p, nil
}

// peerGroups returns the supplementary groups of the peer (SO_PEERGROUPS,
// Linux 4.13).
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups) * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size/4) > len(groups):
			groups = make([]uint32, size/4)
		default:
			return nil, fmt.Errorf("SO_PEERGROUPS: %w", errno)
		}
	}
}

// maxWaiting is how many connections may wait to be accepted, which takes no
// longer than to see whose they are.
const maxWaiting = 4096

// Socket is the path of the control socket of the Emperor at runDir, which is
// root's and the control group's.
func Socket(runDir string) string { return filepath.Join(runDir, "control.sock") }

// UsersSocket is the path of the one for everybody else, since a vassal's own user
// may ask about it. It is another one so that nobody else's connections wait in
// the queue of root's.
func UsersSocket(runDir string) string { return filepath.Join(runDir, "control-users.sock") }

// Listen makes the control socket at path, for root and the group gid, if that is
// not negative.
func Listen(path string, gid int) (*net.UnixListener, error) {
	if gid >= 0 {
		return listen(path, gid, 0o660)
	}
	return listen(path, gid, 0o600)
}

// ListenUsers makes the control socket that everybody may connect to: SO_PEERCRED
// decides who may what.
func ListenUsers(path string) (*net.UnixListener, error) { return listen(path, -1, 0o666) }

// listen makes a socket. Its owner is set before it can be reached: it is bound
// under another name and renamed. What a dead Emperor left there is replaced; the
// caller holds the lock of the run directory, so that a living one's is not.
func listen(path string, gid int, mode os.FileMode) (*net.UnixListener, error) {
	group := max(gid, 0)
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != fs.ModeSocket {
		return nil, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeControlSocket, File: path,
			Message: "exists and is not a socket", Hint: "remove it, or use another --run-dir"}
	}
	hidden := path + ".new"
	if err := os.Remove(hidden); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: hidden}); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	defer os.Remove(hidden)
	if os.Geteuid() == 0 {
		if err := os.Lchown(hidden, 0, group); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(hidden, mode); err != nil {
		return nil, err
	}
	if err := unix.Listen(fd, maxWaiting); err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	if err := os.Rename(hidden, path); err != nil {
		return nil, err
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return ln.(*net.UnixListener), nil
}
