package dirmon

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"liege/vassal"
	"liege/vassal/acl"
	"liege/vassal/regular"
)

// walker goes along paths one component at a time, so that it knows who could
// have put each of them there.
type walker struct {
	root    string
	primary func(uid int) (gid int, ok bool)
}

// trail is what was seen on the way to a file.
type trail struct {
	owner  uint32 // the user besides root who owns a step; 0: none does
	mixed  bool   // more than one user besides root does
	loose  string // a directory in which others can replace what they do not own
	closed bool   // there is a directory that not everybody may search
	// shared says that somebody besides root can put files into the last
	// directory: a link in it is nobody's word, and root's own file there may
	// have been moved in.
	shared bool
}

// place is an open directory.
type place struct {
	fd    int // O_PATH
	path  string
	trail trail
	stack []int // the directories above, from the root
}

func (p *place) close() {
	unix.Close(p.fd)
	for _, fd := range p.stack {
		unix.Close(fd)
	}
}

// start opens the root.
func (w *walker) start() (*place, error) {
	fd, err := unix.Open(w.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &place{fd: fd, path: "/"}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		p.close()
		return nil, err
	}
	w.note(&p.trail, "/", fd, &st)
	return p, nil
}

// note adds a directory to the trail.
func (w *walker) note(t *trail, path string, fd int, st *unix.Stat_t) {
	t.add(st.Uid)
	others := w.othersWrite(fd, st)
	if others && st.Mode&unix.S_ISVTX == 0 && t.loose == "" {
		t.loose = path
	}
	t.shared = others || st.Uid != 0
	t.closed = t.closed || st.Mode&0o001 == 0
}

func (t *trail) add(uid uint32) {
	switch {
	case uid == 0 || uid == t.owner:
	case t.owner == 0:
		t.owner = uid
	default:
		t.mixed = true
	}
}

// othersWrite reports whether somebody besides root and the owner may write.
// The owner's own primary group is the owner: Ubuntu's umask makes 0664 files
// and 0775 directories.
//
// An access control list gives no more than the bits of the group, and may give
// that to anybody.
func (w *walker) othersWrite(fd int, st *unix.Stat_t) bool {
	switch {
	case st.Mode&0o002 != 0:
		return true
	case st.Mode&0o020 == 0:
		return false
	}
	own := func(gid uint32) bool {
		if gid == 0 {
			return true
		}
		primary, ok := w.primary(int(st.Uid))
		return ok && primary == int(gid)
	}
	return !own(st.Gid) || acl.OthersWrite(acl.OpenFile(fd), st.Uid, own)
}

// child opens name in p without following it.
func child(p *place, name string) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := unix.Openat2(p.fd, name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	if err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// enter makes the open directory fd, called name, the place.
func (w *walker) enter(p *place, fd int, name string, st *unix.Stat_t) {
	p.stack = append(p.stack, p.fd)
	p.fd, p.path = fd, filepath.Join(p.path, name)
	w.note(&p.trail, p.path, fd, st)
}

// up goes back to the directory above. The trail remembers where it has been.
func (w *walker) up(p *place) error {
	if len(p.stack) == 0 {
		return nil
	}
	unix.Close(p.fd)
	p.fd, p.stack = p.stack[len(p.stack)-1], p.stack[:len(p.stack)-1]
	p.path = filepath.Dir(p.path)
	var st unix.Stat_t
	if err := unix.Fstat(p.fd, &st); err != nil {
		return err
	}
	w.note(&p.trail, p.path, p.fd, &st)
	return nil
}

// dir opens the directory at path, following links: the operator names it. The
// steps are on its trail.
func (w *walker) dir(path string) (*place, error) {
	p, err := w.start()
	if err != nil {
		return nil, err
	}
	fd, _, err := w.walk(p, path)
	if err != nil {
		p.close()
		return nil, err
	}
	if fd >= 0 {
		unix.Close(fd)
		p.close()
		return nil, unix.ENOTDIR
	}
	return p, nil
}

// walk goes from p along path, through links. If path leads to a directory
// that is p afterwards and fd is -1, else fd is what it leads to, and p the
// directory that holds it.
func (w *walker) walk(p *place, path string) (fd int, st unix.Stat_t, err error) {
	rest := path
	hops := 0
	for {
		if strings.HasPrefix(rest, "/") {
			for len(p.stack) > 0 {
				if err := w.up(p); err != nil {
					return -1, st, err
				}
			}
		}
		rest = strings.TrimLeft(rest, "/")
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		switch name {
		case "":
			return -1, st, nil
		case ".":
			continue
		case "..":
			if err := w.up(p); err != nil {
				return -1, st, err
			}
			continue
		}
		fd, st, err = child(p, name)
		if err != nil {
			return -1, st, err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			w.enter(p, fd, name, &st)
		case unix.S_IFLNK:
			if hops++; hops > maxLinkHops {
				unix.Close(fd)
				return -1, st, unix.ELOOP
			}
			target, err := readlink(fd)
			unix.Close(fd)
			if err != nil {
				return -1, st, err
			}
			p.trail.add(st.Uid)
			if rest != "" {
				target += "/" + rest
			}
			rest = target
			if rest == "" {
				return -1, st, unix.ENOENT
			}
		default:
			if strings.Trim(rest, "/") != "" {
				unix.Close(fd)
				return -1, st, unix.ENOTDIR
			}
			return fd, st, nil
		}
	}
}

// readlink reads the link that fd is. A link of the kernel's is not text, whatever
// it reads as.
func readlink(fd int) (string, error) {
	if err := regular.OnDisk(fd); err != nil {
		return "", err
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// signature is what tells one state of a file from another without reading
// it.
type signature struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
	mode         uint32
	uid, gid     uint32
	nlink        uint64
	linkMtime    unix.Timespec
	linkTarget   string
}

// found is one file as one scan sees it.
type found struct {
	fd     int // O_PATH; -1: none
	sig    signature
	prob   *vassal.Problem // it cannot be used
	closed bool            // not everybody gets to it
}

func (f *found) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
}

// look opens name in the directory dir, following a link if it is the
// operator's, and judges what it finds. gone says that there is nothing.
func (w *walker) look(dir *place, name, path string, tyrant bool) (f found, gone bool) {
	fd, st, err := child(dir, name)
	switch {
	case errors.Is(err, unix.ENOENT):
		return found{fd: -1}, true
	case err != nil:
		return found{fd: -1, prob: problem(path, vassal.CodeUnreadable, reason(err), "")}, false
	}
	f = found{fd: fd, sig: signatureOf(&st)}
	t := dir.trail
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		f, st, t = w.follow(dir, fd, &st, path)
	}
	f.closed = t.closed
	if f.prob == nil {
		f.prob = w.judge(f.fd, &st, t, path, tyrant)
	}
	if f.prob != nil {
		f.close()
	}
	return f, false
}

// follow goes where the link fd leads, by systemd's CHASE_SAFE rule: whoever
// owns the final file, every step is root's or that owner's; judge compares.
// It closes fd.
func (w *walker) follow(dir *place, fd int, lst *unix.Stat_t, path string) (f found, st unix.Stat_t, t trail) {
	defer unix.Close(fd)
	f = found{fd: -1, sig: signatureOf(lst)}
	if dir.trail.owner != 0 || dir.trail.shared || dir.trail.loose != "" {
		f.prob = problem(path, vassal.CodeUntrusted, "is a symbolic link in a directory where not only root can write",
			"put the file itself there")
		return f, st, t
	}
	target, err := readlink(fd)
	if err != nil {
		f.prob = problem(path, vassal.CodeUntrusted, "is a symbolic link that "+reason(err), "")
		return f, st, t
	}
	p, err := w.dir(dir.path)
	if err == nil {
		defer p.close()
		var to int
		if to, st, err = w.walk(p, target); err == nil {
			f.fd, t = to, p.trail
		}
	}
	switch {
	case err != nil:
		f.prob = problem(path, vassal.CodeUntrusted, "is a symbolic link whose target "+reason(err), "ls -lL "+clean(path))
	case f.fd < 0:
		f.prob = problem(path, vassal.CodeNotAFile, "is a symbolic link to a directory", "")
	default:
		link := f.sig
		f.sig = signatureOf(&st)
		f.sig.linkMtime, f.sig.linkTarget = link.mtime, target
	}
	return f, st, t
}

// judge says why the open file may not be read, or nil (CONTRACT 1).
func (w *walker) judge(fd int, st *unix.Stat_t, t trail, path string, tyrant bool) *vassal.Problem {
	if k := typeName(st.Mode); k != "" {
		return problem(path, vassal.CodeNotAFile, "is "+k+", not a file", "")
	}
	if err := regular.OnDisk(fd); err != nil {
		return problem(path, vassal.CodeNotAFile, reason(err), "")
	}
	if st.Nlink > 1 {
		return problem(path, vassal.CodeUntrusted, fmt.Sprintf("has %d hard links: who else can change it cannot be told", st.Nlink),
			"cp it and mv the copy over it, or use a symbolic link")
	}
	if p := w.shared(fd, st, path); p != nil {
		return p
	}
	switch {
	case t.loose != "":
		return problem(path, vassal.CodeUntrusted, "others can put another file in its place: "+clean(t.loose)+" can be written by them",
			"chmod go-w "+clean(t.loose))
	case t.mixed || t.owner != 0 && t.owner != st.Uid:
		return problem(path, vassal.CodeUntrusted, fmt.Sprintf("belongs to %s, but %s owns a directory or link on the way to it and can put another file in its place",
			userName(st.Uid), userName(t.owner)), "keep it in a directory of its owner's or root's")
	case st.Uid == 0 && t.shared:
		return problem(path, vassal.CodeUntrusted, "belongs to root, but others can move files into its directory",
			"keep it in a directory that only root can write")
	case st.Uid == 0 && tyrant:
		return problem(path, vassal.CodeUntrusted, "belongs to root: with tyrant (emperor-tyrant) every file belongs to the user it runs as", "chown USER "+clean(path))
	case st.Size > MaxFile:
		return problem(path, vassal.CodeTooBig, fmt.Sprintf("has %d bytes, at most %d are read", st.Size, MaxFile), "")
	}
	return nil
}

// shared says that others than its owner can write the open file, or nil.
func (w *walker) shared(fd int, st *unix.Stat_t, path string) *vassal.Problem {
	if !w.othersWrite(fd, st) {
		return nil
	}
	return problem(path, vassal.CodeUntrusted, fmt.Sprintf("mode %04o: others than its owner can write it", st.Mode&0o7777),
		"chmod go-w "+clean(path)) // which takes that from an access control list too
}

func typeName(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return ""
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFLNK:
		return "a symbolic link"
	}
	return "a device"
}

// content is what was read of a file.
type content struct {
	text []byte
	calm bool  // it did not change meanwhile, and nobody has it open for writing
	born int64 // emperor.File.Born
}

// read returns the bytes of the regular file behind the O_PATH descriptor.
func read(fd int, sig signature) (c content, err error) {
	// The descriptor names one inode, known to be a regular file: opening it
	// again neither blocks nor follows anything.
	rfd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return c, err
	}
	file := os.NewFile(uintptr(rfd), "vassal file")
	defer file.Close()
	writers := beingWritten(rfd)
	text, err := io.ReadAll(io.LimitReader(file, MaxFile+1))
	if err != nil {
		return c, err
	}
	if len(text) > MaxFile {
		return c, fmt.Errorf("grew beyond %d bytes", MaxFile)
	}
	var st unix.Stat_t
	if err := unix.Fstat(rfd, &st); err != nil {
		return c, err
	}
	now := signatureOf(&st)
	same := now.size == sig.size && now.mtime == sig.mtime && now.ctime == sig.ctime && int64(len(text)) == now.size
	c = content{text: slices.Clip(slices.Clone(text)), calm: same && !writers, born: born(rfd)} // kept for as long as the file is there
	return c, nil
}

// born is when the open file's inode was made, in nanoseconds; 0: its file system does
// not say.
func born(fd int) int64 {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &st); err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return 0
	}
	return st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
}

// beingWritten reports whether anybody has the file open for writing: a read
// lease is then refused (fcntl_locking(2), F_SETLEASE). File systems without
// leases answer no.
func beingWritten(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_UNLCK)
		return err != nil && errors.Is(err, unix.EAGAIN)
	}
	return errors.Is(err, unix.EAGAIN)
}

func signatureOf(st *unix.Stat_t) signature {
	return signature{dev: st.Dev, ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim,
		mode: st.Mode, uid: st.Uid, gid: st.Gid, nlink: st.Nlink}
}

// stamp changes whenever the vassal must be looked at again (CONTRACT 2).
func (s signature) stamp(text []byte, touch bool) string {
	h := sha256.New()
	h.Write(text)
	fmt.Fprintf(h, "\x00%d %s", s.uid, s.linkTarget)
	if touch {
		fmt.Fprintf(h, "\x00%d.%d %d.%d", s.mtime.Sec, s.mtime.Nsec, s.linkMtime.Sec, s.linkMtime.Nsec)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:16])
}

// young reports whether the times of s are so near to now that another change
// may not have moved them.
func (s signature) young(now time.Time) bool {
	age := now.Sub(time.Unix(s.ctime.Unix()))
	return age < racyWindow
}

// primaryGroup reads /etc/passwd.
func primaryGroup(uid int) (int, bool) {
	u, err := user.LookupUid(uid)
	return u.Gid, err == nil
}

func userName(uid uint32) string {
	if u, err := user.LookupUid(int(uid)); err == nil {
		return u.Name
	}
	return "uid " + strconv.Itoa(int(uid))
}
