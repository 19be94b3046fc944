package asuser

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"liege/emperor/asuser/become"
	"liege/vassal/regular"
)

// channel is the child's only descriptor besides /dev/null.
const channel = 3

// Main does nothing, unless this process is a child that Start made: then it
// serves the session and never returns. A main calls it first of all.
func Main() {
	if len(os.Args) != 1 || os.Args[0] != title {
		return
	}
	if err := become.User(); err != nil {
		os.Exit(1)
	}
	if err := serve(channel); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// serve answers requests until the other end closes.
func serve(fd int) error {
	// Of a user who is no other than the caller: a debugger could run on it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return err
	}
	unix.Umask(0) // modes are exact
	if err := limit(); err != nil {
		return err
	}
	buf := make([]byte, maxPacket)
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			return err
		}
		var q request
		if err := json.Unmarshal(buf[:n], &q); err != nil {
			return err
		}
		if err := answer(fd, q); err != nil {
			return err
		}
	}
}

// limit bounds this process. RLIMIT_AS would not do: Go reserves address space
// that it never uses (KERNEL 5); RLIMIT_DATA counts what can be written.
func limit() error {
	data := dataSize() + MaxMemory
	for res, v := range map[int]uint64{
		unix.RLIMIT_DATA: data, unix.RLIMIT_CPU: MaxCPU, unix.RLIMIT_NOFILE: 64,
		unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: maxText,
	} {
		if err := unix.Setrlimit(res, &unix.Rlimit{Cur: v, Max: v}); err != nil {
			return err
		}
	}
	return nil
}

// dataSize is what RLIMIT_DATA counts now, in bytes.
func dataSize() uint64 {
	var data uint64
	b, err := os.ReadFile("/proc/self/statm")
	if f := strings.Fields(string(b)); err == nil && len(f) > 5 { // size, resident, shared, text, lib, data (proc(5))
		data, err = strconv.ParseUint(f[5], 10, 64)
	}
	if err != nil || data == 0 {
		return MaxMemory
	}
	return data * uint64(os.Getpagesize())
}

// answer does q and sends the reply.
func answer(ch int, q request) error {
	var r reply
	data, f, err := do(q, &r)
	if f != nil {
		defer f.Close()
	}
	if err != nil {
		data, f = nil, nil
		r = reply{Err: err.Error()}
		if no, ok := errors.AsType[syscall.Errno](err); ok {
			r.Errno, r.Err = int(no), ""
		}
		if k, ok := errors.AsType[*whyError](err); ok {
			r.Err = k.why
		}
	}
	r.Data, r.FD = len(data), f != nil
	head, err := json.Marshal(r)
	if err != nil {
		return err
	}
	var oob []byte
	if f != nil {
		oob = unix.UnixRights(int(f.Fd()))
	}
	if err := unix.Sendmsg(ch, head, oob, nil, 0); err != nil {
		return err
	}
	for len(data) > 0 {
		n := min(len(data), maxPacket)
		if err := unix.Sendmsg(ch, data[:n], nil, nil, 0); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// whyError is an errno with words.
type whyError struct {
	why string
	no  syscall.Errno
}

func (e *whyError) Error() string { return e.why }
func (e *whyError) Unwrap() error { return e.no }

func do(q request, r *reply) (data []byte, f *os.File, err error) {
	if q.Op != "glob" && !filepath.IsAbs(q.Path) {
		return nil, nil, syscall.EINVAL
	}
	switch q.Op {
	case "open":
		f, err = open(q.Path, unix.O_PATH, 0)
		return nil, f, err
	case "read":
		data, r.Info, err = readFile(q)
		return data, nil, err
	case "stat":
		r.Info, err = stat(q.Path, 0, q.Below)
		return nil, nil, err
	case "lstat":
		r.Info, err = stat(q.Path, unix.O_NOFOLLOW, "")
		return nil, nil, err
	case "readlink":
		r.Real, err = readlink(q.Path)
		return nil, nil, err
	case "glob":
		data, err = glob(q.Path, q.Below)
		return data, nil, err
	case "listen":
		f, err = Bind(q.Path, Rules{Mode: q.Mode, Backlog: q.Backlog, UID: -1, GID: q.GID, Owners: []int{0, os.Getuid()}, Context: q.Context})
		return nil, f, err
	case "unlink":
		return nil, nil, Remove(q.Path, q.Dev, q.Ino)
	case "write":
		return nil, nil, inDir(q.Path, func(d *os.File, base string) error { return WriteIn(d, base, q.Text, q.Mode) })
	case "remove":
		return nil, nil, inDir(q.Path, func(d *os.File, base string) error { return RemoveTextIn(d, base, q.Text) })
	case "readable":
		f, err = open(q.Path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		return nil, f, err
	case "log":
		f, err = open(q.Path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK, q.Mode.Perm())
		return nil, f, err
	}
	return nil, nil, syscall.ENOSYS
}

// open opens path through links but no magic ones.
func open(path string, flags uint64, mode fs.FileMode) (*os.File, error) {
	if flags&unix.O_PATH == 0 {
		flags |= unix.O_NOCTTY
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Mode: uint64(mode), Resolve: unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// reach takes hold (O_PATH) of what path leads to, if this user's texts may ask
// about it (Part). The kernel's own files are not there either, wherever a link leads:
// this process sees the host's, and the user's app does not.
func reach(path string, flags uint64, below string) (*os.File, error) {
	f, err := open(path, unix.O_PATH|flags, 0)
	if err != nil {
		if below != "" {
			err = unreached(path, below)
		}
		return nil, err
	}
	if regular.OnDisk(int(f.Fd())) != nil || below != "" && !inPart(f, below) {
		f.Close()
		return nil, syscall.ENOENT
	}
	return f, nil
}

// unreached is why path cannot be opened, where no link is on its way from the
// directory below: behind one, how it cannot would tell what is there.
func unreached(path, below string) error {
	rest, in := strings.CutPrefix(filepath.Clean(path), below+"/")
	if !in {
		return syscall.ENOENT
	}
	top, err := open(below, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return syscall.ENOENT
	}
	defer top.Close()
	fd, err := unix.Openat2(int(top.Fd()), rest, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH})
	switch {
	case err == nil: // since a moment ago
		unix.Close(fd)
		return syscall.ENOENT
	case errors.Is(err, unix.ELOOP):
		return syscall.ENOENT
	}
	return err
}

// inPart reports whether f lies below dir or belongs to this user.
func inPart(f *os.File, dir string) bool {
	if i, err := infoOf(f); err != nil || int(i.U) == os.Getuid() {
		return err == nil
	}
	top, err := open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return false
	}
	defer top.Close()
	at, err := realPath(f)
	if err != nil {
		return false
	}
	real, err := realPath(top)
	return err == nil && (at == real || strings.HasPrefix(at, strings.TrimSuffix(real, "/")+"/"))
}

// realPath is where f is, without links.
func realPath(f *os.File) (string, error) { return os.Readlink("/proc/self/fd/" + itoa(f.Fd())) }

func readFile(q request) ([]byte, *info, error) {
	at, err := reach(q.Path, 0, q.Below)
	if err != nil {
		return nil, nil, err
	}
	defer at.Close()
	f, err := regular.Reopen(at)
	if errors.Is(err, fs.ErrInvalid) {
		return nil, nil, &whyError{"not a regular file", syscall.EINVAL}
	}
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(q.Max)+1))
	if err != nil {
		return nil, nil, err
	}
	if len(b) > q.Max {
		return nil, nil, &whyError{"the file is too large", syscall.EFBIG}
	}
	i, err := infoOf(f)
	return b, i, err
}

func stat(path string, flags uint64, below string) (*info, error) {
	f, err := reach(path, flags, below)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return infoOf(f)
}

func infoOf(f *os.File) (*info, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	i := &info{S: st.Size(), M: st.Mode(), T: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		i.U, i.G, i.D, i.I = sys.Uid, sys.Gid, sys.Dev, sys.Ino
	}
	return i, nil
}

// readlink returns what the link at path holds.
func readlink(path string) (string, error) {
	f, err := reach(path, unix.O_NOFOLLOW, "")
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if errors.Is(err, unix.ENOENT) { // of what is no link; readlink(2) has another word
		err = unix.EINVAL
	}
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func glob(pattern, below string) ([]byte, error) {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return nil, &whyError{err.Error(), syscall.EINVAL}
	}
	var flags uint64
	if below == "" { // links are told of, and not what they lead to
		flags = unix.O_NOFOLLOW
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		f, err := reach(n, flags, below)
		if err == nil {
			f.Close()
		}
		return err != nil
	})
	if len(names) > MaxGlob {
		return nil, &whyError{"the pattern matches too many files", syscall.E2BIG}
	}
	b, err := json.Marshal(names)
	if err == nil && len(b) > MaxRead {
		return nil, &whyError{"the pattern matches too many files", syscall.E2BIG}
	}
	return b, err
}
