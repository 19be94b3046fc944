// Package static serves files, as uWSGI's check-static, static-map,
// static-map2, check-static-docroot and their kin do.
//
// A request for which there is no file goes on to the next handler: the
// application, or 404. So does one that may not be served, as in uWSGI; a
// client learns nothing from the difference. Where nobody can tell (there are no
// descriptors left, the disk fails) the answer is 503.
//
// A file is opened once, beneath its directory (openat2(2) with
// RESOLVE_BENEATH and RESOLVE_NO_MAGICLINKS), and is a descriptor from then
// on: no path is checked and then used. A symbolic link may lead anywhere
// inside its directory, and out of it only into another directory that is
// served or named by static-safe. Only regular files are sent; a FIFO or a
// device does not block. A URL with a name in it that begins with a dot is no
// file's, but for .well-known (RFC 8615), unless static-dot-files says so;
// those of version control, .env, .ht and keys never are (secret), not even
// through a link.
//
// An answer has an entity tag and a date, and If-None-Match, If-Match,
// If-Modified-Since, If-Unmodified-Since, Range and If-Range are answered as
// RFC 9110 says, 13 and 14. With static-gzip and its kin the compressed
// neighbour (.br, .zst, .gz) that a client takes is sent instead.
//
// Differences from uWSGI: Range needs no honour-range, and a list of ranges is
// answered with the whole file; one Expires, not one for each family of
// options that matches; Accept-Ranges, ETag and Vary are sent. There is no
// listing and no redirect to a trailing slash, as in uWSGI.
package static

import (
	"context"
	"log/slog"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"liege/serve/beneath"
	"liege/serve/exchange"
	"liege/vassal"
)

// Handler serves files. Make one with New; it is safe for concurrent use.
type Handler struct {
	// Before is asked before a file that a URL leads to is sent, with
	// PATH_INFO naming the index where that was found: routing rules look at
	// what is about to be served. done says that it has answered, or failed.
	// nil: every file is sent. It is set before the first request.
	Before func(ctx context.Context, r *exchange.Request, w exchange.Response) (done bool, err error)

	check   []*beneath.Root
	maps    []mapped        // static-map, then static-map2
	safe    []*beneath.Root // all roots that a link may lead into
	docroot bool            // check-static-docroot
	dots    bool            // static-dot-files
	index   []string
	skip    []string
	passes  bool // some index is among those that are skipped
	types   *types
	expires *expires // nil: no Expires
	packed  *packed  // nil: no compressed neighbours
	next    exchange.Handler
}

// mapped is one static-map.
type mapped struct {
	mount string
	whole bool // static-map2: the mount point is part of the path
	root  *beneath.Root
}

// cut is what p has behind the mount point, which ends where a segment does:
// uWSGI compares the letters alone, and /static would be the mount of
// /static-old/x too. A point that ends in "/" is not for the directory itself.
func (m *mapped) cut(p string) (rest string, ok bool) {
	if strings.HasSuffix(m.mount, "/") {
		return strings.CutPrefix(p, m.mount)
	}
	return beneath.Below(p, m.mount)
}

// New returns a Handler for what s names, in front of next. A directory that
// does not exist (yet) is no error, nor is a mime file that cannot be read;
// both are logged.
func New(s vassal.Static, next exchange.Handler, log *slog.Logger) *Handler {
	h := &Handler{index: s.Index, skip: s.SkipExt, docroot: s.Docroot, dots: s.DotFiles, next: next}
	for _, d := range s.Check {
		h.check = append(h.check, beneath.New(d))
	}
	for _, whole := range []bool{false, true} {
		for _, m := range s.Map {
			if m.Append == whole {
				h.maps = append(h.maps, mapped{m.Mount, whole, beneath.New(m.Dir)})
			}
		}
	}
	h.safe = append(h.safe, h.check...)
	for _, m := range h.maps {
		h.safe = append(h.safe, m.root)
	}
	for _, d := range s.Safe {
		h.safe = append(h.safe, beneath.New(d))
	}
	for _, r := range h.safe {
		if _, err := r.Open(); err != nil {
			log.Warn("static files: directory cannot be opened", "path", r.Path(), "err", err)
		}
	}
	h.passes = slices.ContainsFunc(h.index, func(name string) bool { return h.skipped("/" + name) })
	h.types = loadTypes(s.Mime, log)
	h.expires = newExpires(s.Expires, log)
	h.packed = newPacked(s.Gzip, log)
	return h
}

// Serve implements exchange.Handler.
func (h *Handler) Serve(ctx context.Context, r *exchange.Request, w exchange.Response) error {
	method := r.Get("REQUEST_METHOD")
	get := method == "GET" || method == "HEAD"
	if !get && !h.passes {
		return h.next.Serve(ctx, r, w)
	}
	f, err := h.find(r)
	if err != nil {
		return exchange.Unavailable(err)
	}
	if f.File == nil {
		return h.next.Serve(ctx, r, w)
	}
	if pass := h.passed(&f); pass || !get {
		if pass {
			nameIndex(r, &f)
		}
		f.close()
		return h.next.Serve(ctx, r, w)
	}
	if h.Before != nil {
		nameIndex(r, &f)
		if done, err := h.Before(ctx, r, w); done || err != nil {
			f.close()
			return err
		}
	}
	r.Info.Backend = "static"
	return h.send(r, w, &f)
}

// passed reports whether f is an index that static-skip-ext keeps from being
// sent. As in uWSGI the next handler gets the request with the index in
// PATH_INFO, whatever its method: so a directory's index.cgi or index.php runs.
func (h *Handler) passed(f *found) bool { return !f.whole && h.skipped("/"+f.name) }

// nameIndex makes PATH_INFO name the index file that was found, as in uWSGI.
func nameIndex(r *exchange.Request, f *found) {
	p := r.Path()
	if index := path.Base(f.name); !f.whole && path.Base(p) != index {
		r.Set("PATH_INFO", strings.TrimRight(p, "/")+"/"+index)
	}
}

// found is the file that answers a request, or nothing.
type found struct {
	*File
	dir  *beneath.Dir // where it was found
	name string       // below dir; its type goes by it
	own  bool         // dir was opened for this request
	info
}

func (f *found) close() {
	f.Close()
	if f.own {
		f.dir.Close()
	}
}

// find opens the file that r asks for, if there is one. An error says that
// nobody knows. The order is uWSGI's: check-static, static-map, static-map2,
// each as in the file, then check-static-docroot.
func (h *Handler) find(r *exchange.Request) (found, error) {
	p := r.Path()
	if p == "" || p[0] != '/' || strings.IndexByte(p, 0) >= 0 || h.skipped(p) {
		return found{}, nil
	}
	for _, root := range h.check {
		if f, err := h.inRoot(root, p); f.File != nil || err != nil {
			return f, err
		}
	}
	for i := range h.maps {
		m := &h.maps[i]
		rest, ok := m.cut(p)
		if !ok {
			continue
		}
		if m.whole {
			rest = p
		}
		if f, err := h.inRoot(m.root, rest); f.File != nil || err != nil {
			return f, err
		}
	}
	if h.docroot {
		return h.inDocroot(r.Get("DOCUMENT_ROOT"), p)
	}
	return found{}, nil
}

// inDocroot looks for p below the directory that the front end or a routing
// rule named. It may change with every request and is not kept open.
func (h *Handler) inDocroot(docroot, p string) (f found, err error) {
	if !path.IsAbs(docroot) || strings.IndexByte(docroot, 0) >= 0 || path.Clean(docroot) == "/" {
		return found{}, nil
	}
	dir, err := beneath.Open(docroot)
	if err != nil {
		return found{}, known(err)
	}
	if !dir.IsFile() {
		if f, err = h.open(dir, p); f.File != nil {
			f.own = true
			return f, nil
		}
	}
	dir.Close()
	return found{}, err
}

// known is nil for an error that says that there is no such file.
func known(err error) error {
	if err == nil || beneath.Missing(err) {
		return nil
	}
	return err
}

func (h *Handler) skipped(p string) bool {
	for _, e := range h.skip {
		if strings.HasSuffix(p, e) {
			return true
		}
	}
	return false
}

func (h *Handler) inRoot(root *beneath.Root, p string) (found, error) {
	dir, err := root.Open()
	if err != nil {
		return found{}, known(err)
	}
	return h.open(dir, p)
}

// open opens p beneath dir, or the index of the directory that p is.
func (h *Handler) open(dir *beneath.Dir, p string) (found, error) {
	rel, ok := relative(p, h.dots)
	if !ok {
		return found{}, nil
	}
	f, err := h.beneath(dir, rel)
	switch {
	case f.File == nil:
		return found{}, err
	case f.whole:
		return f, nil
	case !f.isDir && strings.HasSuffix(p, "/"):
		f.Close() // "file/" is not the file: its relative links would be wrong
		return found{}, nil
	case !f.isDir:
		return f, nil
	}
	f.Close()
	for _, index := range h.index {
		name := path.Join(rel, index)
		f, err := h.beneath(dir, name)
		if err != nil || f.File != nil && !f.isDir {
			return f, err
		}
		if f.File != nil {
			f.Close()
		}
	}
	return found{}, nil
}

// relative makes a path for openat2 of a URL's path: no leading slashes, no
// "..", no hidden name.
func relative(p string, dots bool) (string, bool) {
	p = strings.Trim(p, "/")
	if p == "" {
		return ".", true
	}
	if strings.IndexByte(p, '.') < 0 {
		return p, true
	}
	for seg := range strings.SplitSeq(p, "/") {
		if seg == "" || seg[0] != '.' {
			continue
		}
		if seg == ".." || secret(seg) || !dots && seg != "." && seg != ".well-known" {
			return "", false
		}
	}
	return p, true
}

// secret reports whether a name is never served: what version control, shells
// of deployment and web servers keep beside the public files.
func secret(name string) bool {
	for _, p := range [...]string{".git", ".svn", ".hg", ".bzr", ".env", ".ht", ".ssh", ".aws", ".npmrc", ".netrc", ".pgpass", ".gnupg"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

// info is what is known of an open file.
type info struct {
	isDir bool   // a directory
	whole bool   // the root itself is this file
	link  string // where a symbolic link below the root led; empty: there was none
	size  int64
	mtime int64 // seconds
	nsec  int64
}

const openFlags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY

// beneath opens rel beneath dir: a regular file or a directory, else nothing.
func (h *Handler) beneath(dir *beneath.Dir, rel string) (found, error) {
	var fd int
	var err error
	f := found{dir: dir, name: rel}
	if dir.IsFile() {
		f.whole, f.name = true, path.Base(dir.Path())
		fd, err = dir.Reopen(openFlags) // whatever rel is, as in uWSGI
	} else if fd, f.link, err = dir.File(rel, openFlags, h.safe); err == nil && f.link != "" && !h.mayLink(dir, f.link) {
		_ = unix.Close(fd) // opened for reading: nothing to lose
		return found{}, nil
	}
	if err != nil {
		return found{}, known(err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil {
		f.isDir, f.size, f.mtime, f.nsec = st.Mode&unix.S_IFMT == unix.S_IFDIR, st.Size, st.Mtim.Sec, st.Mtim.Nsec
		if f.isDir || st.Mode&unix.S_IFMT == unix.S_IFREG {
			f.File = &File{fd}
			return f, nil
		}
	}
	_ = unix.Close(fd) // opened for reading: nothing to lose
	return found{}, err
}

// mayLink reports whether where a link led may be served under its own name
// too: static-skip-ext keeps the source of a program from being sent,
// whatever leads to it.
func (h *Handler) mayLink(dir *beneath.Dir, real string) bool {
	if rest, ok := beneath.Below(real, dir.Real()); ok {
		real = rest
	}
	_, ok := relative(real, true)
	return ok && !h.skipped(real)
}
