// Package static serves files, as uWSGI's check-static, static-map,
// static-map2, static-index, static-skip-ext, static-safe and mimefile do.
//
// A request for which there is no file goes on to the next handler: the
// application, or 404. So does one that may not be served, as in uWSGI; a
// client learns nothing from the difference.
//
// A file is opened once, beneath its directory (openat2(2) with
// RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS), and is a descriptor from then
// on: no path is checked and then used. A symbolic link may lead anywhere
// inside its directory, and out of it only into another directory that is
// served or named by static-safe. Only regular files are sent; a FIFO or a
// device does not block. Names beginning with a dot are served as by uWSGI,
// but for those of version control, .env and .ht (hidden).
//
// Differences from uWSGI: Range and If-Range are honoured without
// honour-range and a list of ranges is answered with the whole file;
// If-None-Match is not ignored; Accept-Ranges is sent; there is no listing
// and no redirect to a trailing slash, as in uWSGI.
package static

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
	"liege/vassal"
)

// Handler serves files. Make one with New; it is safe for concurrent use.
type Handler struct {
	check []*root
	maps  []mapped // static-map, then static-map2
	safe  []*root  // all roots that a link may lead into
	index []string
	skip  []string
	types types
	next  exchange.Handler
}

// mapped is one static-map.
type mapped struct {
	mount string
	whole bool // static-map2: the mount point is part of the path
	root  *root
}

// New returns a Handler for what s names, in front of next. A directory that
// does not exist (yet) is no error, nor is a mime file that cannot be read;
// both are logged.
func New(s vassal.Static, next exchange.Handler, log *slog.Logger) *Handler {
	h := &Handler{index: s.Index, skip: s.SkipExt, next: next}
	for _, d := range s.Check {
		h.check = append(h.check, newRoot(d))
	}
	for _, whole := range []bool{false, true} {
		for _, m := range s.Map {
			if m.Append == whole {
				h.maps = append(h.maps, mapped{m.Mount, whole, newRoot(m.Dir)})
			}
		}
	}
	h.safe = append(h.safe, h.check...)
	for _, m := range h.maps {
		h.safe = append(h.safe, m.root)
	}
	for _, d := range s.Safe {
		h.safe = append(h.safe, newRoot(d))
	}
	for _, r := range h.safe {
		if _, err := r.open(); err != nil {
			log.Warn("static files: directory cannot be opened", "path", r.path, "err", err)
		}
	}
	h.types = loadTypes(s.Mime, log)
	return h
}

// Serve implements exchange.Handler.
func (h *Handler) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	method := r.Get("REQUEST_METHOD")
	if method != "GET" && method != "HEAD" {
		return h.next.Serve(ctx, r, w)
	}
	f, name, info := h.find(r)
	if f == nil {
		return h.next.Serve(ctx, r, w)
	}
	defer f.Close()
	r.Info.Backend = "static"
	return h.send(r, w, f, name, info)
}

// find opens the file that r asks for; nil if there is none. The order is
// uWSGI's: check-static, static-map, static-map2, each as in the file.
func (h *Handler) find(r *exchange.Request) (*file, string, info) {
	p := r.Get("PATH_INFO")
	if p == "" || p[0] != '/' || strings.IndexByte(p, 0) >= 0 || h.skipped(p) {
		return nil, "", info{}
	}
	for _, root := range h.check {
		if f, name, fi := h.open(root, p); f != nil {
			return f, name, fi
		}
	}
	for i := range h.maps {
		m := &h.maps[i]
		rest, ok := strings.CutPrefix(p, m.mount)
		if !ok {
			continue
		}
		if m.whole {
			rest = p
		}
		if f, name, fi := h.open(m.root, rest); f != nil {
			return f, name, fi
		}
	}
	return nil, "", info{}
}

func (h *Handler) skipped(p string) bool {
	for _, e := range h.skip {
		if strings.HasSuffix(p, e) {
			return true
		}
	}
	return false
}

// open opens p beneath root, or the index of the directory that p is.
func (h *Handler) open(root *root, p string) (*file, string, info) {
	rel, ok := relative(p)
	if !ok {
		return nil, "", info{}
	}
	f, fi := h.beneath(root, rel)
	if f == nil {
		return nil, "", info{}
	}
	switch {
	case fi.whole:
		return f, root.path, fi
	case !fi.dir && strings.HasSuffix(p, "/"):
		f.Close() // "file/" is not the file: its relative links would be wrong
		return nil, "", info{}
	case !fi.dir:
		return f, rel, fi
	}
	f.Close()
	for _, index := range h.index {
		name := path.Join(rel, index)
		if h.skipped("/" + name) {
			continue
		}
		if f, fi := h.beneath(root, name); f != nil {
			if !fi.dir {
				return f, name, fi
			}
			f.Close()
		}
	}
	return nil, "", info{}
}

// relative makes a path for openat2 of a URL's path: no leading slashes, no
// "..", no hidden name.
func relative(p string) (string, bool) {
	p = strings.Trim(p, "/")
	if p == "" {
		return ".", true
	}
	for seg := range strings.SplitSeq(p, "/") {
		if seg == ".." || hidden(seg) {
			return "", false
		}
	}
	return p, true
}

// hidden reports whether a name is never served: what version control, shells
// of deployment and web servers keep beside the public files.
func hidden(name string) bool {
	if name == "" || name[0] != '.' {
		return false
	}
	for _, p := range [...]string{".git", ".svn", ".hg", ".bzr", ".env", ".ht", ".ssh", ".aws"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// info is what fstat(2) says of a file.
type info struct {
	dir   bool
	whole bool // the root itself is this file
	size  int64
	mtime int64 // seconds
}

const openFlags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC

// beneath opens rel beneath root: a regular file or a directory, else nil.
func (h *Handler) beneath(root *root, rel string) (*file, info) {
	dir, err := root.open()
	if err != nil {
		return nil, info{}
	}
	var fd int
	if dir.file {
		fd, err = unix.Open(procPath(dir.f), openFlags, 0) // whatever rel is, as in uWSGI
	} else {
		fd, err = openBeneath(dir.f, rel, 0)
		if errors.Is(err, unix.EXDEV) {
			fd, err = h.elsewhere(dir.f, rel)
		}
	}
	if err != nil {
		return nil, info{}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil {
		fi := info{dir: st.Mode&unix.S_IFMT == unix.S_IFDIR, whole: dir.file, size: st.Size, mtime: st.Mtim.Sec}
		if fi.dir || st.Mode&unix.S_IFMT == unix.S_IFREG {
			return &file{fd}, fi
		}
	}
	_ = unix.Close(fd) // opened for reading: nothing to lose
	return nil, info{}
}

// openBeneath is openat2(2) that never leaves dir.
func openBeneath(dir *os.File, rel string, resolve uint64) (int, error) {
	for {
		fd, err := unix.Openat2(int(dir.Fd()), rel, &unix.OpenHow{Flags: openFlags,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | resolve})
		if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: a rename raced with ".."
			return fd, err
		}
	}
}

// elsewhere opens a path that a link leads out of its directory: where it
// ends is looked up with a descriptor that can read nothing (O_PATH), and
// must be below a directory that is served or safe; beneath that the file is
// opened anew, without following any link. So a link that is exchanged
// meanwhile wins nothing.
func (h *Handler) elsewhere(dir *os.File, rel string) (int, error) {
	fd, err := unix.Openat2(int(dir.Fd()), rel, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return -1, err
	}
	f := os.NewFile(uintptr(fd), rel)
	defer f.Close()
	real, err := os.Readlink(procPath(f))
	if err != nil {
		return -1, err
	}
	for _, root := range h.safe {
		d, err := root.open()
		if err != nil || d.file {
			continue
		}
		rest, ok := strings.CutPrefix(real+"/", d.real+"/")
		if !ok {
			continue
		}
		if rest, ok = relative(rest); !ok {
			continue
		}
		if fd, err := openBeneath(d.f, rest, unix.RESOLVE_NO_SYMLINKS); err == nil {
			return fd, nil
		}
	}
	return -1, fs.ErrPermission
}
