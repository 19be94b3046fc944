// Package listen makes and keeps the listening sockets of vassals (CONTRACT 6).
//
// They belong to the vassal, not to a generation: made before the first one,
// kept over reloads, crashes and sleeps, so that no connection is refused
// meanwhile.
//
//	reg := listen.NewRegistry()              // one per Emperor
//	set := reg.Set("shop")                   // one per vassal
//	change, problems := set.Apply(ctx, want) // before a start: makes what is missing
//	… start a generation with change.Files() …
//	change.Commit()                          // it serves: what it doesn't name is closed
//	change.Abort()                           // or it failed: what was made for it is closed
//	set.Close()                              // the vassal is gone; or, renamed:
//	other.Inherit(set)
//
// TCP and abstract sockets are made by the process itself, which must be in
// the guarded cgroup then (KERNEL 1). A unix socket in a directory that only
// root can change is bound by this process and given to the vassal's user; in
// any other by a child with that user's ids (package asuser).
//
// A tenant holds the sockets too and can break them for good; Apply looks at
// each one and makes a broken one anew (KERNEL 31).
package listen

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"liege/emperor/asuser"
	"liege/emperor/fdstore"
	"liege/vassal"
)

// DefaultBacklog is uWSGI's.
const DefaultBacklog = 100

// Want is what one start of a vassal needs.
type Want struct {
	File      string            // the vassal's file, for messages to others
	Listeners []vassal.Listener // addresses as package resolve normalises them
	UID, GID  int
	Groups    []int
	Trusted   bool        // an operator's file: chown-socket may name anybody
	Umask     fs.FileMode // of the vassal: a socket without chmod-socket is 0777 less this
	Context   string      // SELinux context of the vassal, which its sockets get; empty: this process's
	// Owner resolves chown-socket's "user:group"; -1 for a part that is not
	// said.
	Owner func(string) (uid, gid int, err error)
	// AsUser returns a child with the vassal's ids, which the caller closes
	// later. It is called at most once in an Apply, and only for sockets in
	// directories that are not root's alone.
	AsUser func(context.Context) (*asuser.Session, error)
	// At is told which address is seen to from then on, for whom that takes too
	// long; nil: nobody.
	At func(address string)
}

// Registry knows which vassal of this Emperor listens where. Its lock is held
// for a look into a map, never over a system call that can wait.
type Registry struct {
	// Store has the sockets of vassals that sleep kept while no Emperor runs
	// (Set.Store); nil: nobody does.
	Store *fdstore.Store

	// Cgroup is the one in which the vassals' own are (sandbox.Manager.All); empty:
	// who has an address is not told to be a vassal.
	Cgroup string

	// RunDirs are the names of the run directory (resolve.RunDirs), in which names
	// are those of vassals; the first is shown.
	RunDirs []string

	// Lives reports whether there is such a vassal, in whatever state; nil: nobody
	// knows.
	Lives func(vassal.Name) bool

	mu      sync.Mutex
	held    map[string]*socket // by canonical address
	leaving bool
}

// NewRegistry returns an empty Registry.
func NewRegistry() *Registry {
	return &Registry{RunDirs: []string{vassal.RunDir}, held: map[string]*socket{}}
}

// socket is one listening socket.
type socket struct {
	addr     string // canonical: the key in Registry.held
	protocol vassal.Protocol
	file     *os.File
	bound    string   // as bound, for people: ":0" has its port here
	dev, ino uint64   // of a unix socket's node
	dir      string   // of the node, without links
	dirs     []string // made for it beneath /run
	stored   string   // its name in Registry.Store; empty: it is not there
	// guarded by Registry.mu
	owner *Set   // nil: released
	from  string // owner's file
	line  int
}

// Set is the sockets of one vassal.
type Set struct {
	reg  *Registry
	name vassal.Name

	mu      sync.Mutex // Commit comes from another goroutine than Apply; not held while anything is made
	current []*socket
	pending []*Change // neither final nor undone
	closed  bool
}

// Set returns a new empty Set for the vassal name.
func (r *Registry) Set(name vassal.Name) *Set { return &Set{reg: r, name: name} }

// Bound is one socket of a Set.
type Bound struct {
	Address  string // as bound
	Named    string // as the file names it, canonical
	From     vassal.Origin
	Protocol vassal.Protocol
	Cookie   uint64   // SO_COOKIE: the same for every descriptor of the socket
	Inode    uint64   // as /proc/PID/fd shows it: socket:[Inode]
	File     *os.File // owned by the Set
}

// Change is the sockets of one start: those kept and those made for it.
type Change struct {
	set    *Set
	next   []*socket
	pinned []*socket // looked at by an Apply that is under way: nobody closes them meanwhile
	keeps  bool      // it changes nothing, and next is what nobody closes meanwhile
}

// Bound lists the sockets in the order of Want.Listeners.
func (c *Change) Bound() []Bound {
	var out []Bound
	for _, s := range c.next {
		out = append(out, s.public())
	}
	return out
}

// Files are the sockets in the order of Want.Listeners. The Set owns them.
func (c *Change) Files() []*os.File {
	var out []*os.File
	for _, s := range c.next {
		out = append(out, s.file)
	}
	return out
}

// Commit makes the change final: sockets that it doesn't use are closed, unless
// another start that is under way does.
func (c *Change) Commit() {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	if !c.set.settle(c) {
		return
	}
	if c.keeps {
		c.set.drop(c.next)
		return
	}
	old := c.set.current
	c.set.current = c.next
	if c.set.closed {
		c.set.current, old = nil, append(old, c.next...)
	}
	c.set.drop(old)
}

// Abort undoes the change.
func (c *Change) Abort() {
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	if c.set.settle(c) {
		c.set.drop(c.next)
	}
}

// settle takes c off the list of those under way, with s.mu held, and reports
// whether it was on it.
func (s *Set) settle(c *Change) bool {
	i := slices.Index(s.pending, c)
	if i < 0 {
		return false
	}
	s.pending = slices.Delete(s.pending, i, i+1)
	return true
}

// drop closes those of the sockets that nothing uses, with s.mu held. One that is
// there twice is closed once: what has its number or inode then is another's.
func (s *Set) drop(sockets []*socket) {
	for i, k := range sockets {
		used := slices.Contains(sockets[:i], k) || slices.Contains(s.current, k) ||
			slices.ContainsFunc(s.pending, func(c *Change) bool { return slices.Contains(c.next, k) || slices.Contains(c.pinned, k) })
		if !used {
			s.reg.release(k, s)
		}
	}
}

// find returns the socket for address that the Set has, or that was made for a
// start that is under way, for one whose file was edited meanwhile may still be
// ending when the next one begins; and whether it can be connected to. Nil:
// there is none. c is the Change that it is for.
func (s *Set) find(address string, c *Change) (found *socket, healthy bool) {
	for _, k := range s.pin(c, func(k *socket) bool { return k.addr == address }) {
		if found = k; k.healthy() {
			return k, true
		}
	}
	return found, false
}

// pin returns those of the Set's sockets that are wanted, the current ones first. They
// stay open until the Apply of c, whose own are not among them, returns. wanted is
// called with s.mu held.
func (s *Set) pin(c *Change, wanted func(*socket) bool) (out []*socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lists := [][]*socket{s.current}
	for _, p := range s.pending {
		if p != c {
			lists = append(lists, p.next)
		}
	}
	for _, list := range lists {
		for _, k := range list {
			if wanted(k) {
				out = append(out, k)
			}
		}
	}
	c.pinned = append(c.pinned, out...)
	return out
}

// Bound lists the sockets that the Set holds.
func (s *Set) Bound() []Bound {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Bound
	for _, k := range s.current {
		out = append(out, k.public())
	}
	return out
}

// Close gives up every socket. No generation of the vassal lives any more, and
// no Apply is under way. It reports whether something is left for another Emperor
// (Registry.Leave).
func (s *Set) Close() (left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, k := range s.current {
		left = s.reg.release(k, s) || left
	}
	s.current = nil
	return left
}

// Apply returns the sockets for want: those the Set has, mended where the
// tenant broke them, and new ones. Nothing is closed before Commit. The
// problems may hold warnings, such as that a socket had to be mended; with an
// Error among the problems there is no Change and nothing new was left.
func (s *Set) Apply(ctx context.Context, want Want) (*Change, vassal.Problems) {
	c := &Change{set: s}
	m := &maker{ctx: ctx, set: s, want: want, change: c}
	s.mu.Lock()
	s.pending = append(s.pending, c)
	s.mu.Unlock()
	for i, l := range want.Listeners {
		if ctx.Err() != nil { // nothing more is made
			m.fail(l, context.Cause(ctx))
			break
		}
		if want.At != nil {
			want.At(l.Address)
		}
		if top := somaxconn(); top > 0 && l.Backlog > top {
			m.warn(l, fmt.Sprintf("%s: a queue of %d connections is above net.core.somaxconn, %d, which is used", l.Address, l.Backlog, top))
		}
		if k := m.one(l, want.Listeners[:i]); k != nil {
			s.mu.Lock()
			c.next = append(c.next, k)
			s.mu.Unlock()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	unused := c.pinned
	c.pinned = nil
	if m.problems.Failed() {
		s.settle(c)
		c, unused = nil, slices.Concat(c.next, unused)
	}
	s.drop(unused)
	return c, m.problems
}

// Keep returns a Change that changes nothing: the sockets that the Set has, which
// stay open until it is final or undone.
func (s *Set) Keep() *Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Change{set: s, next: slices.Clone(s.current), keeps: true}
	s.pending = append(s.pending, c)
	return c
}

// Inherit takes over every socket of old, whose file was renamed and of which
// no generation lives any more.
func (s *Set) Inherit(old *Set) {
	old.mu.Lock()
	defer old.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reg.mu.Lock()
	defer s.reg.mu.Unlock()
	for _, k := range old.current {
		k.owner = s
	}
	s.current, old.current = append(s.current, old.current...), nil
}

// somaxconn is the longest queue that the kernel makes; 0: not known.
func somaxconn() int {
	b, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return n
}

// Adopt takes a socket that an earlier Emperor made for the vassal, and which
// the caller has checked, as if Apply had made it. On success the Set owns f.
func (s *Set) Adopt(l vassal.Listener, bound, from string, f *os.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &socket{addr: l.Address, protocol: l.Protocol, file: f, bound: bound, owner: s, from: from, line: l.At.Line}
	if l.Address[0] == '/' {
		if err := k.locate(); err != nil {
			return fmt.Errorf("%s: %w", l.Address, err)
		}
	}
	if name := StoredName(k.public().Cookie); s.reg.Store.Has(name) {
		k.stored = name
	}
	s.reg.mu.Lock()
	defer s.reg.mu.Unlock()
	if o := s.reg.held[k.addr]; o != nil && !isAnyPort(k.addr) {
		return fmt.Errorf("%s: %s has it", k.addr, o.owner.name)
	}
	s.reg.held[k.addr] = k
	s.current = append(s.current, k)
	return nil
}

func (k *socket) public() Bound {
	cookie, err := unix.GetsockoptUint64(int(k.file.Fd()), unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		cookie = 0 // every kernel that has a cgroup v2 guard has it (4.13)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(k.file.Fd()), &st); err != nil {
		st.Ino = 0
	}
	return Bound{Address: k.bound, Named: k.addr, From: vassal.Origin{File: k.from, Line: k.line}, Protocol: k.protocol, Cookie: cookie, Inode: st.Ino, File: k.file}
}

// release closes k and forgets it, once, and only for the Set that has it: a heir may
// have taken it over meanwhile, from one of which a start is still ending. One that is
// stored for the next Emperor stays as it is.
func (r *Registry) release(k *socket, of *Set) (left bool) {
	r.mu.Lock()
	if k.owner != of {
		r.mu.Unlock()
		return false
	}
	k.owner = nil
	if r.held[k.addr] == k {
		delete(r.held, k.addr)
	}
	left = r.leaving && r.Store.Has(k.stored)
	r.mu.Unlock()
	k.file.Close()
	if left {
		return true
	}
	if k.stored != "" {
		_ = r.Store.Remove(k.stored) // systemd is not there any more
	}
	k.remove()
	return false
}

// remove removes a unix socket's node if it still is ours, and the
// directories that were made for it as far as they are empty.
func (k *socket) remove() {
	if k.ino != 0 {
		// The directory may be a tenant's: it is reached as it was when the
		// socket was bound, through no link, and only a socket with our device
		// and inode is removed.
		if dir, err := openDir(k.dir); err == nil {
			_ = asuser.RemoveIn(dir, base(k.addr), k.dev, k.ino)
			dir.Close()
		}
	}
	k.removeDirs()
}

// removeDirs removes the directories that were made for k, as far as they are
// empty.
func (k *socket) removeDirs() {
	for _, d := range slices.Backward(k.dirs) {
		if os.Remove(d) != nil {
			return // another vassal uses it
		}
	}
}

// other says which other vassal of this Emperor has l's address, if one has.
func (r *Registry) other(l vassal.Listener, s *Set) *vassal.Problem {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.held[l.Address]
	if k == nil || k.owner == s || isAnyPort(l.Address) {
		return nil
	}
	return inUse(l, fmt.Sprintf("vassal %s has it (%s:%d)", k.owner.name, k.from, k.line), "name another address in one of the two files")
}

func isAnyPort(addr string) bool {
	a, err := netip.ParseAddrPort(addr)
	return err == nil && a.Port() == 0
}

// rival finds a vassal that listens on l's port at an address that includes
// or is included by l's.
func (r *Registry) rival(l vassal.Listener, s *Set) string {
	want, err := netip.ParseAddrPort(l.Address)
	if err != nil {
		return ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.held {
		have, err := netip.ParseAddrPort(k.addr)
		if err == nil && k.owner != s && have.Port() == want.Port() {
			return fmt.Sprintf("vassal %s has %s (%s:%d)", k.owner.name, k.addr, k.from, k.line)
		}
	}
	return ""
}

// Overlap reports whether nobody can listen at both: they are the same, or one is
// every address of the other's family, at the same port. Port 0 is another each time.
func Overlap(a, b netip.AddrPort) bool {
	all := func(x netip.AddrPort) bool { return x.Addr().IsUnspecified() }
	return a.IsValid() && b.IsValid() && a.Port() == b.Port() && a.Port() != 0 &&
		(a.Addr() == b.Addr() || (all(a) || all(b)) && a.Addr().Is4() == b.Addr().Is4())
}

// overlap is Overlap of addresses as listeners have them; those that are none of TCP
// do not.
func overlap(a, b string) bool {
	x, err := netip.ParseAddrPort(a)
	y, err2 := netip.ParseAddrPort(b)
	return err == nil && err2 == nil && Overlap(x, y)
}

func inUse(l vassal.Listener, why, hint string) *vassal.Problem {
	return problem(l, vassal.CodeListenInUse, fmt.Sprintf("%s is in use: %s", l.Address, why), hint)
}

func problem(l vassal.Listener, code, msg, hint string) *vassal.Problem {
	return &vassal.Problem{
		Severity: vassal.Error, Code: code, File: l.At.File, Line: l.At.Line, Key: l.Key, Step: "listen", Message: msg, Hint: hint,
	}
}
