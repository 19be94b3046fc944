package inifile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal/acl"
	"liege/vassal/regular"
)

// Host answers what an ini text may ask. Paths are absolute. Tests use a map.
//
// A Host for a tenant's file must run with the owner's uid, gid and groups and
// no capability, in a process that ends after 2 s and 64 MiB (KERNEL 26), and
// must refuse:
//   - a path outside the directory of the file and the app's directory, and
//     any magic link (openat2 RESOLVE_NO_MAGICLINKS), /proc and /sys;
//   - everything but regular files; a FIFO must not block it;
//   - every Getenv: it answers "", false.
//
// Text from a tenant must never be read through an OSHost: it would answer with
// root's rights. Read asks each Host only what files of its trust ask.
type Host interface {
	// ReadFile returns a regular file of at most MaxFile bytes.
	ReadFile(path string) (HostFile, error)
	Stat(path string) (fs.FileInfo, error)
	// Glob returns the matches sorted, directories with a final slash.
	Glob(pattern string) ([]string, error)
	Getenv(name string) (string, bool)
	Hostname() string
	User() (uid int, name string, gid int, group string) // of this process: %u %U %g %G
	CPUs() int                                           // %k
	UnixTime() (sec int64, usec int64)                   // %t %T
}

// ErrUntrusted says that a Host does not read a file because of who owns it or a
// directory or link on the way, or can write there (CONTRACT 1).
var ErrUntrusted = errors.New("untrusted")

// HostFile is what was in a file when it was opened.
type HostFile struct {
	Data     []byte
	Inode    uint64
	Operator bool // owned by root and writable by nobody else (CONTRACT 1)
}

// OSHost is the Host of an operator's file: it answers with the rights of this
// process.
type OSHost struct {
	lookupEnv func(string) (string, bool)
}

// NewOSHost returns a Host that answers from this machine. lookupEnv is
// os.LookupEnv, or nil for an empty environment.
func NewOSHost(lookupEnv func(string) (string, bool)) *OSHost {
	return &OSHost{lookupEnv: lookupEnv}
}

// ReadFile implements Host. It never waits and never opens anything but a
// regular file. A file that is written meanwhile is read again.
func (h *OSHost) ReadFile(path string) (HostFile, error) {
	at, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return HostFile{}, plainPathError(err)
	}
	defer at.Close()
	return ReadOpen(at)
}

// ReadOpen reads the file that at (O_PATH) is, as Host.ReadFile does.
func ReadOpen(at *os.File) (HostFile, error) {
	if err := regular.OnDisk(int(at.Fd())); err != nil {
		return HostFile{}, err
	}
	f, err := regular.Reopen(at)
	if err != nil {
		return HostFile{}, plainPathError(err)
	}
	defer f.Close()
	for range 5 {
		file, settled, err := readOnce(f)
		if err != nil || settled {
			return file, err
		}
	}
	return HostFile{}, errors.New("is being written")
}

// readOnce reads f. settled is false if f changed meanwhile.
func readOnce(f *os.File) (file HostFile, settled bool, err error) {
	before, err := f.Stat()
	if err != nil {
		return HostFile{}, false, plainPathError(err)
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, MaxFile+1))
	if err != nil {
		return HostFile{}, false, plainPathError(err)
	}
	if len(data) > MaxFile {
		return HostFile{}, false, errTooBig
	}
	after, err := f.Stat()
	if err != nil {
		return HostFile{}, false, plainPathError(err)
	}
	st := after.Sys().(*syscall.Stat_t)
	file = HostFile{
		Data:     data,
		Inode:    st.Ino,
		Operator: st.Uid == 0 && (st.Mode&0o022 == 0 || st.Mode&0o002 == 0 && st.Gid == 0 && !acl.OthersWrite(acl.OpenFile(int(f.Fd())), 0, isRoot)),
	}
	return file, before.ModTime().Equal(after.ModTime()) && after.Size() == int64(len(data)), nil
}

func isRoot(gid uint32) bool { return gid == 0 }

var errTooBig = fmt.Errorf("larger than %d bytes", MaxFile)

// plainPathError takes the call and the path from err: the Problem names them.
func plainPathError(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return pe.Err
	}
	return err
}

// Stat implements Host.
func (h *OSHost) Stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	return info, plainPathError(err)
}

// Glob implements Host.
func (h *OSHost) Glob(pattern string) ([]string, error) {
	names, err := filepath.Glob(pattern)
	for i, name := range names {
		if info, err := os.Stat(name); err == nil && info.IsDir() && !strings.HasSuffix(name, "/") {
			names[i] = name + "/"
		}
	}
	return names, err
}

// Getenv implements Host.
func (h *OSHost) Getenv(name string) (string, bool) {
	if h.lookupEnv == nil {
		return "", false
	}
	return h.lookupEnv(name)
}

// Hostname implements Host.
func (h *OSHost) Hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// User implements Host. A name that the host does not have is the number.
func (h *OSHost) User() (uid int, name string, gid int, group string) {
	uid, gid = os.Getuid(), os.Getgid()
	name, group = strconv.Itoa(uid), strconv.Itoa(gid)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return uid, name, gid, group
}

// CPUs implements Host.
func (h *OSHost) CPUs() int { return runtime.NumCPU() }

// UnixTime implements Host.
func (h *OSHost) UnixTime() (sec int64, usec int64) {
	now := time.Now()
	return now.Unix(), now.UnixMicro()
}
