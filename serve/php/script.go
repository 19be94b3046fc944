package php

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"liege/serve/beneath"
	"liege/serve/exchange"
	"liege/vassal"
)

// scripts finds the script of a request.
type scripts struct {
	p       *vassal.PHP
	cwd     string
	docroot *beneath.Root // nil: of the request
	safe    []*beneath.Root
	bypass  []*regexp.Regexp
}

// script is what answers a request.
type script struct {
	path  string // SCRIPT_FILENAME
	name  string // SCRIPT_NAME
	info  string // PATH_INFO
	root  string // DOCUMENT_ROOT
	query string
	moved string // where the client is sent instead
}

// maxDepth bounds the directories of a path: each is looked at.
const maxDepth = 64

func newScripts(p *vassal.PHP, cwd string) (s scripts, err error) {
	s = scripts{p: p, cwd: cwd}
	if cwd == "" {
		s.cwd = "/"
	}
	if p.Docroot != "" {
		s.docroot = beneath.New(p.Docroot)
		s.safe = append(s.safe, s.docroot)
	}
	for _, d := range p.AllowedDocroot {
		s.safe = append(s.safe, beneath.New(d))
	}
	for _, text := range p.AppBypass {
		re, err := regexp.Compile(text)
		if err != nil {
			return s, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadValue, File: p.At.File, Key: "php-app-bypass", Step: "php", Message: err.Error()}
		}
		s.bypass = append(s.bypass, re)
	}
	return s, nil
}

func (s *scripts) close() {
	for _, r := range s.safe {
		r.Close()
	}
}

func refuse(status int, format string, args ...any) error {
	return &exchange.StatusError{Status: status, Err: fmt.Errorf("php: "+format, args...)}
}

// missing is the answer where err keeps something closed: 404, unless it tells
// nothing about whether there is one.
func missing(what string, err error) error {
	if !beneath.Missing(err) {
		return exchange.Unavailable(fmt.Errorf("php: %s: %w", what, err))
	}
	return refuse(404, "%s: %w", what, err)
}

// find finds the script for r.
func (s *scripts) find(r *exchange.Request) (*script, error) {
	p := r.Path()
	if strings.IndexByte(p, 0) >= 0 {
		return nil, refuse(404, "a NUL byte in PATH_INFO")
	}
	dir, done, err := s.root(r)
	if err != nil {
		return nil, err
	}
	defer done()
	if s.p.App != "" && !s.bypassed(r) {
		return s.app(r, dir.Path())
	}
	found, err := s.walk(r, dir, p)
	if err != nil && exchange.StatusOf(err) == 404 && (s.p.Fallback != "" || s.p.Fallback2 != "") && !errors.Is(err, errNoIndex) {
		return s.fallback(r, dir.Path(), p)
	}
	return found, err
}

// root opens the document root.
func (s *scripts) root(r *exchange.Request) (*beneath.Dir, func(), error) {
	if s.docroot != nil {
		d, err := s.docroot.Open()
		if err != nil {
			return nil, nil, missing("php-docroot", err)
		}
		return d, func() {}, nil
	}
	docroot := r.Get("DOCUMENT_ROOT")
	if !path.IsAbs(docroot) || strings.IndexByte(docroot, 0) >= 0 || path.Clean(docroot) == "/" {
		docroot = s.cwd
	}
	d, err := beneath.Open(docroot)
	if err != nil {
		return nil, nil, missing("document root", err)
	}
	return d, d.Close, nil
}

// bypassed is php-app-bypass: of the URL as it was sent, as in uWSGI, and of
// the path that a script is looked for by: /free/../x.php is not below /free.
func (s *scripts) bypassed(r *exchange.Request) bool {
	sent := r.Get("REQUEST_URI")
	meant := r.Get("SCRIPT_NAME") + r.Path()
	if q := r.Get("QUERY_STRING"); q != "" {
		meant += "?" + q
	}
	return slices.ContainsFunc(s.bypass, func(re *regexp.Regexp) bool { return re.MatchString(sent) && re.MatchString(meant) })
}

// app is php-app: the path is in the query, if php-app-qs says so.
func (s *scripts) app(r *exchange.Request, root string) (*script, error) {
	p, q := r.Get("PATH_INFO"), r.Get("QUERY_STRING")
	if s.p.AppQS != "" && p != "/" {
		q = joined(s.p.AppQS+escaped(p), q)
	}
	return s.may(&script{path: s.p.App, root: root, query: q})
}

// fallback answers for a path with nothing there.
func (s *scripts) fallback(r *exchange.Request, root, p string) (*script, error) {
	out := &script{path: s.p.Fallback, name: r.Get("SCRIPT_NAME") + p, root: root, query: r.Get("QUERY_STRING")}
	if s.p.Fallback == "" {
		out.name = "/" + strings.TrimLeft(s.p.Fallback2, "/")
		out.path = path.Join(root, out.name)
	}
	if s.p.FallbackQS != "" {
		out.query = joined(s.p.FallbackQS+"="+escaped(r.Get("PATH_INFO")), out.query)
	}
	return s.may(out)
}

// escaped is a path as the value of a query's variable: uWSGI leaves it as it
// is, and "/a&admin=1" would be two.
func escaped(p string) string { return strings.ReplaceAll(url.QueryEscape(p), "%2F", "/") }

func joined(a, b string) string {
	if b == "" {
		return a
	}
	return a + "&" + b
}

// errNoIndex is a directory that is there.
var errNoIndex = errors.New("php: no php-index in the directory")

// walk goes down p from dir until it finds a file. A name that begins with a
// dot is none.
func (s *scripts) walk(r *exchange.Request, dir *beneath.Dir, p string) (*script, error) {
	at, rel := 0, ""
	for depth := 0; ; depth++ {
		if at < len(p) && p[at] == '/' {
			at++
		}
		end := strings.IndexByte(p[at:], '/')
		if end = at + end; end < at {
			end = len(p)
		}
		name := p[at:end]
		if name == "" {
			return s.index(r, dir, p, rel)
		}
		if name[0] == '.' || depth == maxDepth || len(name) > unix.NAME_MAX {
			return nil, refuse(404, "no script has such a name")
		}
		at, rel = end, path.Join(rel, name)
		out, isDir, err := s.at(dir, rel)
		if err != nil {
			return nil, err
		}
		if !isDir {
			out.name, out.info, out.query = r.Get("SCRIPT_NAME")+p[:at], r.Behind(p[:at]), r.Get("QUERY_STRING")
			if !s.ends(rel) {
				return nil, refuse(403, "%s does not end as php-allowed-ext says", rel)
			}
			return s.may(out)
		}
	}
}

// index is the script of a directory, whose URL ends in "/".
func (s *scripts) index(r *exchange.Request, dir *beneath.Dir, p, rel string) (*script, error) {
	if !strings.HasSuffix(p, "/") {
		// Collapsed: "//host/" would lead to another host.
		to := url.URL{Path: "/" + strings.TrimLeft(r.Get("SCRIPT_NAME")+p, "/") + "/", RawQuery: r.Get("QUERY_STRING")}
		return &script{moved: to.String()}, nil
	}
	for _, name := range s.p.Index {
		out, isDir, err := s.at(dir, path.Join(rel, name))
		if exchange.StatusOf(err) == 503 {
			return nil, err
		}
		if err != nil || isDir || !s.ends(name) {
			continue
		}
		out.name, out.query = r.Get("SCRIPT_NAME")+p+name, r.Get("QUERY_STRING")
		return s.may(out)
	}
	return nil, &exchange.StatusError{Status: 404, Err: errNoIndex}
}

// at looks at rel below dir.
func (s *scripts) at(dir *beneath.Dir, rel string) (out *script, isDir bool, err error) {
	fd, real, err := dir.File(rel, unix.O_PATH, s.safe)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EXDEV):
		return nil, false, refuse(403, "%s: leads out of the document root, or may not be entered", rel)
	case err != nil:
		return nil, false, missing(rel, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, false, missing(rel, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return nil, true, nil
	case unix.S_IFREG:
	default:
		return nil, false, refuse(403, "%s is no regular file", rel)
	}
	out = &script{root: dir.Path(), path: path.Join(dir.Real(), rel)}
	if real != "" {
		out.path = real
	}
	if !s.ends(out.path) && s.ends(rel) {
		return nil, false, refuse(403, "%s leads to a file that does not end as php-allowed-ext says", rel)
	}
	return out, false, nil
}

// ends is php-allowed-ext.
func (s *scripts) ends(name string) bool {
	return slices.ContainsFunc(s.p.AllowedExt, func(ext string) bool { return strings.HasSuffix(name, ext) })
}

// may is php-allowed-script.
func (s *scripts) may(out *script) (*script, error) {
	if len(s.p.AllowedScript) > 0 && !slices.Contains(s.p.AllowedScript, out.path) {
		return nil, refuse(403, "%s is not named by php-allowed-script", out.path)
	}
	return out, nil
}
