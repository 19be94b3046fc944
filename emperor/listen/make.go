package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"liege/emperor/asuser"
	"liege/selinux"
	"liege/vassal"
)

// maker is one Apply.
type maker struct {
	ctx      context.Context
	set      *Set
	want     Want
	change   *Change
	child    *asuser.Session
	problems vassal.Problems
}

// user is the child that acts as the vassal's user.
func (m *maker) user() (*asuser.Session, error) {
	if m.child != nil {
		return m.child, nil
	}
	var err error
	m.child, err = m.want.AsUser(m.ctx)
	return m.child, err
}

// one returns the socket for l; nil after a problem. earlier are the listeners
// of the same start before l.
func (m *maker) one(l vassal.Listener, earlier []vassal.Listener) *socket {
	k, healthy := m.set.find(l.Address, m.change)
	if healthy {
		if err := m.sameContext(k); err != nil {
			m.fail(l, err)
			return k
		}
		m.set.reg.mu.Lock()
		k.protocol, k.from, k.line = l.Protocol, m.want.File, l.At.Line
		m.set.reg.mu.Unlock()
		if err := m.settle(l, k); err != nil {
			m.fail(l, err)
		}
		return k
	}
	if k != nil {
		m.warn(l, l.Address+" could not be connected to any more: the vassal shut it down, or its file was removed; it is made anew")
	}
	if p := m.set.reg.other(l, m.set); p != nil {
		m.problems = append(m.problems, *p)
		return nil
	}
	k, err := m.make(l, earlier, k)
	if err != nil {
		m.fail(l, err)
		return nil
	}
	m.set.reg.mu.Lock()
	m.set.reg.held[k.addr] = k
	m.set.reg.mu.Unlock()
	return k
}

func (m *maker) warn(l vassal.Listener, msg string) {
	p := problem(l, vassal.CodeListen, msg, "")
	p.Severity = vassal.Warning
	m.problems = append(m.problems, *p)
}

// fail reports err about l.
func (m *maker) fail(l vassal.Listener, err error) {
	if p, ok := errors.AsType[*vassal.Problem](err); ok {
		m.problems = append(m.problems, *p)
		return
	}
	hint := ""
	inet := l.Address[0] != '/' && l.Address[0] != '@'
	switch {
	case errors.Is(err, errOtherContext):
		hint = "liege stop NAME && liege start NAME"
	case errors.Is(err, unix.EACCES) && inet && m.want.Context != "":
		hint = fmt.Sprintf("the SELinux policy does not let %s listen on it: liege policy new with --port %s", selinux.Type(m.want.Context), portName(l.Address))
	case errors.Is(err, unix.EACCES) && inet:
		hint = "--http :8080: a port below 1024 needs root" // only liege serve gets here
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
		hint = "RUN/NAME.sock: a directory that always exists"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		hint = "make the directory, or use one below /run, which is made"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		hint = "this host has no such address; \":PORT\" is all of them"
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENXIO):
		hint = "this file system holds no sockets; RUN/NAME.sock does"
	}
	m.problems = append(m.problems, *problem(l, vassal.CodeListen, fmt.Sprintf("%s: %s", l.Address, words(err)), strings.NewReplacer("RUN", m.set.reg.RunDirs[0], "NAME", string(m.set.name)).Replace(hint)))
}

// words is err without what the message says already.
func words(err error) string {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}

// make makes a new socket for l and puts it under the mode and owner asked.
// broken is the one that it replaces, or nil.
func (m *maker) make(l vassal.Listener, earlier []vassal.Listener, broken *socket) (*socket, error) {
	k := &socket{
		addr: l.Address, protocol: l.Protocol, bound: l.Address,
		owner: m.set, from: m.want.File, line: l.At.Line,
	}
	var err error
	switch l.Address[0] {
	case '/':
		err = m.unix(l, k)
	case '@':
		k.file, err = m.abstract(l)
	default:
		err = m.tcp(l, k, earlier, broken)
	}
	if err != nil {
		k.removeDirs()
		return nil, err
	}
	if l.Address[0] != '/' {
		if err := buffers(int(k.file.Fd()), l.Sockets); err != nil {
			k.file.Close()
			return nil, err
		}
	} else {
		if err = k.locate(); err == nil {
			err = m.settle(l, k)
		}
		if err != nil {
			k.file.Close()
			k.remove()
			return nil, err
		}
	}
	return k, nil
}

// tcp makes an inet socket. A port that the kernel chose stays the vassal's,
// even if it broke the socket, unless somebody else has taken it.
func (m *maker) tcp(l vassal.Listener, k *socket, earlier []vassal.Listener, broken *socket) error {
	addr, err := m.lookup(l.Address)
	if err != nil {
		return err
	}
	fd := -1
	if broken != nil && addr.Port() == 0 {
		if was, err := netip.ParseAddrPort(broken.bound); err == nil {
			fd, _ = m.bindTCP(l, was, v6only(addr, earlier)) // else any port will do
		}
	}
	if fd < 0 {
		fd, err = m.bindTCP(l, addr, v6only(addr, earlier))
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return m.taken(l)
	}
	if err != nil {
		return err
	}
	k.file = os.NewFile(uintptr(fd), l.Address)
	if addr.Port() == 0 {
		if sa, err := unix.Getsockname(fd); err == nil {
			k.bound = netip.AddrPortFrom(addr.Addr(), portOf(sa)).String()
		}
	}
	return nil
}

func (m *maker) bindTCP(l vassal.Listener, addr netip.AddrPort, only bool) (fd int, err error) {
	family := unix.AF_INET
	if addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	if fd, err = m.socket(family); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
			fd = -1
		}
	}()
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return -1, err
	}
	if family == unix.AF_INET6 {
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, btoi(only)); err != nil {
			return -1, err
		}
	}
	if l.Sockets.Freebind {
		if err = freebind(fd, family); err != nil {
			return -1, err
		}
	}
	sa := sockaddr(addr)
	err = unix.Bind(fd, sa)
	if err == nil {
		err = listenHere(fd, backlog(l))
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = m.replaceOwn(fd, sa, addr, backlog(l))
	}
	return fd, err
}

// portName is the port of an inet address as written.
func portName(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return port
}

// replaceOwn binds fd although a socket of the same vassal has the port, at
// an address that includes the new one or is included by it (":80" became
// "127.0.0.1:80"): both serve until the change is final.
func (m *maker) replaceOwn(fd int, sa unix.Sockaddr, addr netip.AddrPort, backlog int) error {
	var own []int
	overlaps := func(k *socket) bool {
		have, err := netip.ParseAddrPort(k.addr)
		return err == nil && have.Port() == addr.Port() && have != addr && slices.Contains(m.set.current, k)
	}
	for _, k := range m.set.pin(m.change, overlaps) {
		own = append(own, int(k.file.Fd()))
	}
	if len(own) == 0 {
		return unix.EADDRINUSE
	}
	for _, f := range append(own, fd) {
		if err := unix.SetsockoptInt(f, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return err
		}
		defer func() { _ = unix.SetsockoptInt(f, unix.SOL_SOCKET, unix.SO_REUSEPORT, 0) }()
	}
	if err := unix.Bind(fd, sa); err != nil && err != unix.EINVAL { // EINVAL: bound already, listen failed
		return err
	}
	return listenHere(fd, backlog)
}

// lookup turns an address into numbers; a host name has its first address,
// from /etc/hosts (the Emperor connects to nobody, so not from DNS).
func (m *maker) lookup(address string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddrPort(address); err == nil {
		return addr, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return Lookup(m.ctx, host, port)
}

// Lookup is the address of a host that has a name.
func Lookup(ctx context.Context, host, port string) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("not in /etc/hosts")
	}}
	ips, err := r.LookupNetIP(ctx, "ip", host)
	if err != nil || len(ips) == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s is neither an address nor a name in /etc/hosts", host)
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(ips[0].Unmap(), uint16(n)), nil
}

func (m *maker) abstract(l vassal.Listener) (*os.File, error) {
	fd, err := m.socket(unix.AF_UNIX)
	if err != nil {
		return nil, err
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: l.Address}); err == nil {
		err = unix.Listen(fd, backlog(l))
	}
	if err != nil {
		unix.Close(fd)
		if err == unix.EADDRINUSE {
			return nil, m.taken(l)
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), l.Address), nil
}

// unix makes a socket in the file system.
func (m *maker) unix(l vassal.Listener, k *socket) error {
	dir, err := m.rootDir(l, k)
	if err == nil {
		defer dir.Close()
		k.file, err = asuser.BindIn(dir, base(l.Address), asuser.Rules{
			Mode: m.mode(l), Backlog: backlog(l), UID: m.want.UID, GID: m.want.GID, Owners: []int{0, m.want.UID}, Context: m.want.Context,
		})
	} else if errors.Is(err, ErrShared) {
		var child *asuser.Session
		if child, err = m.user(); err == nil {
			want := asuser.Socket{Path: l.Address, Mode: m.mode(l), Backlog: backlog(l), GID: -1, Context: m.want.Context}
			k.file, err = child.Listen(want)
			if dev, ino, stale := staleOfRoot(l.Address); errors.Is(err, unix.EADDRINUSE) && stale {
				if err = child.Unlink(l.Address, dev, ino); err == nil {
					k.file, err = child.Listen(want)
				}
			}
		}
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return m.answered(l, err)
	}
	return err
}

// rootDir opens the directory of l in which root may make a socket, and makes it
// if it lies beneath /run; ErrShared: the vassal's user makes it.
func (m *maker) rootDir(l vassal.Listener, k *socket) (dir *os.File, err error) {
	if l.ByUser {
		return nil, ErrShared
	}
	if other := m.set.reg.nameOf(l.Address, m.set); l.Tenant && other != "" {
		return nil, problem(l, vassal.CodeListenInUse, fmt.Sprintf("%s is kept for vassal %s, whose name it has", l.Address, other), m.set.reg.RunDirs[0]+"/"+string(m.set.name)+".sock")
	}
	if k.dirs, err = makeRunDirs(parent(l.Address)); err != nil {
		return nil, err
	}
	return RootOnly(parent(l.Address))
}

// staleOfRoot reports whether address is a socket of root's on which nobody
// answers, as a uWSGI without vacuum leaves it in its user's directory: the
// user could remove it and may not ask it. Nothing is sent to who answers. No
// link on the way is followed: the user could lead root with one to a service
// that systemd starts when it is connected to.
func staleOfRoot(address string) (dev, ino uint64, stale bool) {
	fd, err := unix.Openat2(unix.AT_FDCWD, address, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return 0, 0, false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Uid != 0 {
		return 0, 0, false
	}
	c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return 0, 0, false
	}
	defer unix.Close(c)
	err = unix.Connect(c, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", fd)})
	return st.Dev, st.Ino, err == unix.ECONNREFUSED
}

// answered is taken for a unix socket: err says more where nobody is seen to
// listen.
func (m *maker) answered(l vassal.Listener, err error) error {
	who, hint := holder(l.Address, m.set.reg.Cgroup)
	if who == unseen {
		if say, _, found := strings.Cut(words(err), ": address already in use"); found && say != "" {
			return inUse(l, say, "who uses it? else remove it: rm "+l.Address)
		}
	}
	return inUse(l, who, hint)
}

// settle gives a socket's node the mode and owner that l asks for, and the
// queue its length, which the tenant can change. The node is reached through
// the socket (SIOCUNIXFILE), so no path is looked up.
func (m *maker) settle(l vassal.Listener, k *socket) error {
	if err := unix.Listen(int(k.file.Fd()), backlog(l)); err != nil {
		return err
	}
	if err := buffers(int(k.file.Fd()), l.Sockets); err != nil {
		return err
	}
	switch l.Address[0] {
	case '/':
	case '@':
		return nil
	default:
		if os.Geteuid() != 0 {
			return nil
		}
		return onePort(int(k.file.Fd())) // an older Emperor's is not yet
	}
	uid, gid, err := m.owner(l)
	if err != nil {
		return err
	}
	n, err := nodeFile(k.file, k.addr)
	if err != nil {
		return err
	}
	defer n.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(n.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || st.Nlink > 1 {
		return errors.New("its node is not what was made")
	}
	if l.Chown == "" && int(st.Uid) != m.want.UID { // the uid line changed
		uid, gid = m.want.UID, m.want.GID
	}
	if uid >= 0 && int(st.Uid) != uid || gid >= 0 && int(st.Gid) != gid {
		if err := unix.Fchownat(int(n.Fd()), "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("chown-socket: %w", err)
		}
	}
	if want := m.mode(l); fs.FileMode(st.Mode&0o7777) != want {
		return os.Chmod(fmt.Sprintf("/proc/self/fd/%d", n.Fd()), want)
	}
	return nil
}

// owner is who shall have the node; -1: as it is.
func (m *maker) owner(l vassal.Listener) (uid, gid int, err error) {
	if l.Chown == "" {
		return -1, -1, nil
	}
	uid, gid, err = m.want.Owner(l.Chown)
	if err != nil {
		return -1, -1, problem(l, vassal.CodeListen, fmt.Sprintf("chown-socket = %s: %v", l.Chown, err), "")
	}
	if (!m.want.Trusted || l.Tenant) && (uid >= 0 && uid != m.want.UID || gid >= 0 && gid != m.want.GID && !slices.Contains(m.want.Groups, gid)) {
		return -1, -1, problem(l, vassal.CodeListen, fmt.Sprintf("chown-socket = %s: a user's file may name only a group that the user is in", l.Chown),
			fmt.Sprintf("sudo chown root %s", m.want.File))
	}
	return uid, gid, nil
}

func (m *maker) mode(l vassal.Listener) fs.FileMode {
	if l.Mode != nil {
		return l.Mode.Perm()
	}
	return 0o777 &^ m.want.Umask.Perm()
}

func backlog(l vassal.Listener) int {
	if l.Backlog > 0 {
		return l.Backlog
	}
	return DefaultBacklog
}

// v6only reports whether addr leaves IPv4 to another listener of the file:
// "[::]:80" alone is both, as under uWSGI.
func v6only(addr netip.AddrPort, all []vassal.Listener) bool {
	return slices.ContainsFunc(all, func(l vassal.Listener) bool {
		o, err := netip.ParseAddrPort(l.Address)
		return err == nil && o.Port() == addr.Port() && o.Addr().Is4()
	})
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if ifi, err := net.InterfaceByName(a.Addr().Zone()); err == nil {
		sa.ZoneId = uint32(ifi.Index)
	}
	return sa
}

func portOf(sa unix.Sockaddr) uint16 {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port)
	case *unix.SockaddrInet6:
		return uint16(sa.Port)
	}
	return 0
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
