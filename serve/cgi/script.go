package cgi

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"liege/serve/beneath"
	"liege/serve/exchange"
)

// script is what answers a request.
type script struct {
	path   string // absolute
	name   string // SCRIPT_NAME
	info   string // PATH_INFO
	root   string // DOCUMENT_ROOT where the request has none
	dir    string // working directory
	helper string // runs it; empty: it is executed
	moved  string // where the client is sent instead
}

// maxDepth bounds the directories of a path: each is looked at.
const maxDepth = 64

func refuse(status int, format string, args ...any) error {
	return &exchange.StatusError{Status: status, Err: fmt.Errorf(format, args...)}
}

// missing is the answer where err keeps something closed: 404, unless it tells
// nothing about whether there is one.
func missing(what string, err error) error {
	if !beneath.Missing(err) {
		return exchange.Unavailable(fmt.Errorf("%s: %w", what, err))
	}
	return refuse(404, "%s: %w", what, err)
}

// find finds the program for r: the mount with the longest prefix, then the
// first file on the way down PATH_INFO. What follows is the program's
// PATH_INFO.
func (h *Handler) find(r *exchange.Request) (*script, error) {
	p := r.Path()
	if strings.IndexByte(p, 0) >= 0 {
		return nil, refuse(404, "a NUL byte in PATH_INFO")
	}
	if h.c.Docroot {
		if s, err := h.inDocroot(r, p); s != nil || err != nil {
			return s, err
		}
	}
	var best *mount
	for i := range h.mounts {
		if m := &h.mounts[i]; m.holds(p) && (best == nil || len(m.prefix) > len(best.prefix)) {
			best = m
		}
	}
	if best == nil {
		return nil, refuse(404, "no cgi line for this path")
	}
	dir, err := best.root.Open()
	if err != nil {
		return nil, missing("cgi", err)
	}
	if dir.IsFile() {
		s := &script{path: dir.Real(), name: r.Get("SCRIPT_NAME") + best.prefix, info: r.Behind(best.prefix), root: h.dir, dir: h.dir}
		return s, h.runs(s)
	}
	return h.walk(r, dir, best.prefix, p)
}

// holds reports whether p is below the mount point, at the border of a
// segment: uWSGI compares the text alone, and /cgi-bin would be the directory
// beside it for /cgi-bin2.
func (m *mount) holds(p string) bool {
	_, ok := beneath.Below(p, m.prefix)
	return ok
}

// inDocroot is cgi-from-docroot.
func (h *Handler) inDocroot(r *exchange.Request, p string) (*script, error) {
	docroot := r.Get("DOCUMENT_ROOT")
	if !path.IsAbs(docroot) || strings.IndexByte(docroot, 0) >= 0 || path.Clean(docroot) == "/" {
		return nil, nil
	}
	dir, err := beneath.Open(docroot)
	if err != nil {
		return nil, missing("cgi-from-docroot", err)
	}
	defer dir.Close()
	if dir.IsFile() {
		return nil, refuse(404, "cgi-from-docroot: %s is no directory", docroot)
	}
	return h.walk(r, dir, "", p)
}

// walk goes down p from dir until it finds a file.
func (h *Handler) walk(r *exchange.Request, dir *beneath.Dir, prefix, p string) (*script, error) {
	rest := p[len(prefix):]
	at, rel := 0, ""
	for depth := 0; ; depth++ {
		if at < len(rest) && rest[at] == '/' {
			at++
		}
		end := strings.IndexByte(rest[at:], '/')
		if end = at + end; end < at {
			end = len(rest)
		}
		name := rest[at:end]
		if name == "" {
			return h.index(r, dir, prefix, p, rel)
		}
		if name[0] == '.' || depth == maxDepth || len(name) > unix.NAME_MAX {
			return nil, refuse(404, "no CGI program has such a name")
		}
		at, rel = end, path.Join(rel, name)
		s, isDir, err := h.at(dir, rel)
		if err != nil {
			return nil, err
		}
		if !isDir {
			below := p[:len(prefix)+at]
			s.name, s.info = r.Get("SCRIPT_NAME")+below, r.Behind(below)
			return s, h.runs(s)
		}
	}
}

// index is the program of a directory, whose URL ends in "/".
func (h *Handler) index(r *exchange.Request, dir *beneath.Dir, prefix, p, rel string) (*script, error) {
	if !strings.HasSuffix(p, "/") {
		// Collapsed: "//host/" would lead to another host.
		to := url.URL{Path: "/" + strings.TrimLeft(r.Get("SCRIPT_NAME")+p, "/") + "/", RawQuery: r.Get("QUERY_STRING")}
		return &script{moved: to.String()}, nil
	}
	for _, name := range h.c.Index {
		s, isDir, err := h.at(dir, path.Join(rel, name))
		if exchange.StatusOf(err) == 503 {
			return nil, err
		}
		if err != nil || isDir {
			continue
		}
		s.name = r.Get("SCRIPT_NAME") + p + name
		return s, h.runs(s)
	}
	return nil, refuse(404, "no cgi-index in %s", path.Join(prefix, rel))
}

// at looks at rel below dir.
func (h *Handler) at(dir *beneath.Dir, rel string) (s *script, isDir bool, err error) {
	fd, real, err := dir.File(rel, unix.O_PATH, h.safe)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EXDEV):
		return nil, false, refuse(403, "CGI: %s: leads out of the directory, or may not be entered", rel)
	case err != nil:
		return nil, false, missing("CGI: "+rel, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, false, missing("CGI: "+rel, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return nil, true, nil
	case unix.S_IFREG:
	default:
		return nil, false, refuse(403, "CGI: %s is no regular file", rel)
	}
	s = &script{root: dir.Path(), path: path.Join(dir.Real(), rel)}
	if real != "" && !h.c.NoResolve {
		s.path = real
	}
	s.dir = path.Dir(s.path)
	if real != "" && !h.allowed(real) {
		return nil, false, refuse(403, "CGI: %s has no extension of cgi-allowed-ext", real)
	}
	return s, false, nil
}

// allowed is cgi-allowed-ext.
func (h *Handler) allowed(name string) bool {
	for _, ext := range h.c.AllowedExt {
		if strings.HasSuffix(name, ext) {
			return true
		}
	}
	return len(h.c.AllowedExt) == 0
}

// runs says how s runs, or why not.
func (h *Handler) runs(s *script) error {
	if !h.allowed(s.path) {
		return refuse(403, "CGI: %s has no extension of cgi-allowed-ext", s.path)
	}
	for i := range h.c.Helpers {
		if strings.HasSuffix(s.path, h.c.Helpers[i].Ext) {
			s.helper = h.c.Helpers[i].Command
			return nil
		}
	}
	if err := unix.Access(s.path, unix.X_OK); err != nil {
		return refuse(403, "CGI: %s: %w", s.path, err)
	}
	return nil
}
