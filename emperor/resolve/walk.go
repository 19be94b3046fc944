package resolve

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"liege/vassal/regular"
)

// OS is the host's file system with the rights of this process.
type OS struct{}

const maxSmallFile = 64 << 10

// Lstat implements FS.
func (OS) Lstat(p string) (fs.FileInfo, error) { return os.Lstat(p) }

// Readlink implements FS.
func (OS) Readlink(p string) (string, error) { return os.Readlink(p) }

// ReadFile implements FS. It reads regular files only and never waits.
func (OS) ReadFile(p string) ([]byte, error) {
	f, err := regular.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readSmall(f), nil
}

// readSmall reads the beginning of a file.
func readSmall(f *os.File) []byte {
	b := make([]byte, maxSmallFile)
	n, err := f.Read(b)
	if n == 0 && err != nil {
		return nil // empty
	}
	return b[:n]
}

// maxLinks is the kernel's own limit on links in one path (MAXSYMLINKS).
const maxLinks = 40

// walked is a path followed to its end, link by link.
type walked struct {
	path   string // without links
	links  []Link // met on the way, outermost first
	info   fs.FileInfo
	uid    int
	gid    int
	dev    uint64
	ino    uint64
	tenant bool // somebody other than root can replace a step of the way
	led    bool // and one of these steps is a link: who can replace it chose where the way ends
	leader int  // who owns these links; -1: several do, or another than the owner of their directories
	owner  int  // who besides root owns directories on the way; 0: nobody, -1: several
}

// Stat says what is at p, which is absolute, through the links on its way, as f sees
// it.
func Stat(f FS, p string) (fs.FileInfo, error) {
	w, err := walk(f, path.Clean(p))
	return w.info, err
}

// walk follows p, which is absolute and clean, through the links on its way.
func walk(f FS, p string) (walked, error) {
	w := walked{path: "/"}
	steps := strings.Split(strings.Trim(p, "/"), "/")
	if p == "/" {
		steps = nil
	}
	fi, err := f.Lstat("/")
	if err != nil {
		return w, err
	}
	w.see(fi)
	for n := 0; len(steps) > 0; {
		next := path.Join(w.path, steps[0])
		if name := steps[0]; name == "" || name == "." {
			steps = steps[1:]
			continue
		}
		w.tenant = w.tenant || movable(w.info)
		fi, err := f.Lstat(next)
		if err != nil {
			return w, err
		}
		steps = steps[1:]
		if fi.Mode()&fs.ModeSymlink == 0 { // ".." too: next is the parent then
			w.path = next
			w.see(fi)
			continue
		}
		if n++; n > maxLinks {
			return w, fmt.Errorf("%s: too many links", p)
		}
		target, err := f.Readlink(next)
		if err != nil {
			return w, err
		}
		w.links = append(w.links, Link{next, target})
		if w.tenant {
			w.follow(fi)
		}
		if path.IsAbs(target) {
			w.path = "/"
			fi, err := f.Lstat("/")
			if err != nil {
				return w, err
			}
			w.see(fi)
		}
		steps = append(strings.Split(strings.Trim(target, "/"), "/"), steps...)
	}
	return w, nil
}

// follow notes a link that somebody other than root can replace.
func (w *walked) follow(link fs.FileInfo) {
	leader := -1
	if st, ok := link.Sys().(*syscall.Stat_t); ok && (!w.led || w.leader == int(st.Uid)) && (w.owner == 0 || w.owner == int(st.Uid)) {
		leader = int(st.Uid) // else a link of root's that was put there says nothing
	}
	w.led, w.leader = true, leader
}

func (w *walked) see(fi fs.FileInfo) {
	w.info = fi
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		w.uid, w.gid, w.dev, w.ino = int(st.Uid), int(st.Gid), st.Dev, st.Ino
		if fi.IsDir() && w.uid != 0 && w.uid != w.owner {
			if w.owner != 0 {
				w.owner = -1
			} else {
				w.owner = w.uid
			}
		}
	}
}

// movable reports whether somebody other than root can change what is there: the
// entries of a directory, the bytes of a file.
func movable(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 {
		return true
	}
	return fi.Mode().Perm()&0o022 != 0
}
