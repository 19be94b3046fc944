package route

import (
	"errors"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"liege/serve/exchange"
	"liege/serve/static"
	"liege/vassal/route"
)

func variable(name, value string) exchange.Var { return exchange.Var{Name: name, Value: value} }

func format(n int64) string { return strconv.FormatInt(n, 10) }

var plain = exchange.Field{Name: "Content-Type", Value: "text/plain"}

// breakAction ends the request with a status and no body. Without a status it
// sends what earlier rules made (clearheaders, send), else it answers 403, or
// the status there is.
func breakAction(r *rl) (act, error) {
	if len(r.ActionArg) < 3 {
		return finish((*run).made), nil
	}
	code, reason, err := route.ParseStatus(r.ActionArg)
	return finish(func(x *run) error { return x.text(code, reason, []exchange.Field{plain}, "") }), err
}

// made answers with what earlier rules made.
func (x *run) made() error {
	s := x.cleared
	switch {
	case s.code != 0:
	case len(x.prefix) > 0:
		s.code = 200
	case x.status != 0:
		s.code = x.status
	default:
		s.code = 403
	}
	x.cleared = statusLine{}
	return x.text(s.code, s.reason, nil, "")
}

func returnAction(r *rl) (act, error) {
	code, reason, err := route.ParseStatus(r.ActionArg)
	return finish(func(x *run) error {
		body := reason
		if body == "" {
			body = exchange.Reason(code)
		}
		return x.text(code, reason, []exchange.Field{plain, length(len(body))}, body)
	}), err
}

func length(n int) exchange.Field {
	return exchange.Field{Name: "Content-Length", Value: strconv.Itoa(n)}
}

func redirect(code int, body string) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		t, err := r.template(r.ActionArg)
		url := r.url("")
		return func(x *run) verdict {
			to := exchange.URL(t.Expand(url(x))) // now: what a rule below sets is not meant
			x.ending = func(x *run) error {
				return x.text(code, "", []exchange.Field{{Name: "Location", Value: to}, plain, length(len(body))}, body)
			}
			return stop
		}, err
	}
}

// rewrite changes PATH_INFO, and QUERY_STRING if the rule has a "?".
func rewrite(v verdict) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		t, err := r.template(r.ActionArg)
		at, url := r.At, r.url("&+;")
		return func(x *run) verdict {
			p, qs, asks := strings.Cut(t.Expand(url(x)), "?")
			if asks {
				if old := x.r.Get("QUERY_STRING"); old != "" && qs != "" {
					qs += "&" + old
				} else {
					qs += old
				}
				x.set("QUERY_STRING", qs)
			}
			if s := x.setNew(at, "PATH_INFO", cleanPath(p)); s != next {
				return s
			}
			return v
		}, err
	}
}

// cleanPath decodes a path and takes its dot segments out, which never lead
// above "/". A "%" that encodes nothing stays, and so does an encoded NUL.
func cleanPath(p string) string {
	p = decoded(p)
	if !strings.Contains(p, "/.") && !strings.HasPrefix(p, ".") {
		return p
	}
	clean := path.Clean("/" + p)
	if clean != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")) {
		clean += "/"
	}
	return clean
}

// place is where the files of a rule are: beneath what it names before its
// first variable, whatever the variables hold.
type place struct {
	within *static.Root   // /srv/www of "/srv/www${PATH_INFO}", for what lies below it
	beside []*static.Root // /srv, for "/srv/www-old/x"
	path   string         // of within
}

// directory is the place of t.
func (h *Handler) directory(t *route.Template) place {
	p := t.Literal()
	if p == "" {
		return place{}
	}
	full := h.absolute(p)
	var at place
	if _, whole := t.Constant(); !whole && !strings.HasSuffix(p, "/") && path.Clean(full) != "/" {
		at.path = path.Clean(full)
		at.within = static.NewRoot(at.path)
	}
	if dir := path.Clean(full[:strings.LastIndexByte(full, '/')+1]); dir != "/" {
		at.beside = []*static.Root{static.NewRoot(dir)}
	}
	return at
}

// roots are the directories that name may be beneath: the narrowest, so that a
// link leads no further than it must.
func (p *place) roots(name string) []*static.Root {
	if p.within != nil && strings.HasPrefix(name, p.path+"/") {
		return []*static.Root{p.within}
	}
	return p.beside
}

// noFile is the answer when a file is not there or may not be sent: which of
// the two is for nobody to know.
func noFile(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return &exchange.StatusError{Status: 404, Err: err}
	}
	return err
}

// staticAction sends a file as static files are sent. With orNext a file that
// is not there leaves the request to the next rule.
func staticAction(orNext bool) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		t, err := r.template(r.ActionArg)
		if err != nil {
			return nil, err
		}
		h, at := r.h, r.h.directory(&t)
		return func(x *run) verdict {
			name := h.absolute(t.Expand(x))
			dirs := at.roots(name)
			if orNext {
				if v := x.there(name, dirs); v != leave {
					return v
				}
			}
			x.ending = func(x *run) error { return noFile(h.files.File(x.r, x, name, dirs...)) }
			return stop
		}, nil
	}
}

// fileAction sends a file as it is, with the status and type of the rule.
func fileAction(orNext bool) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		kv, err := route.Keyvals(r.ActionArg, route.FileKeys)
		if err != nil {
			return nil, err
		}
		var t [3]route.Template
		for i, text := range []string{kv["filename"], kv["status"], kv["content_type"]} {
			if t[i], err = r.template(text); err != nil {
				return nil, err
			}
		}
		h, at, mime, uncounted := r.h, r.h.directory(&t[0]), kv["mime"] != "", kv["no_cl"] != ""
		return func(x *run) verdict {
			name, status, kind := h.absolute(t[0].Expand(x)), t[1].Expand(x), t[2].Expand(x)
			dirs := at.roots(name)
			if orNext {
				if v := x.there(name, dirs); v != leave {
					return v
				}
			}
			if kind == "" && mime {
				kind = h.files.Type(name)
			}
			x.ending = func(x *run) error {
				f, size, err := h.files.Open(name, dirs...)
				if err != nil {
					return noFile(err)
				}
				defer f.Close()
				return x.file(f, size, status, kind, uncounted)
			}
			return stop
		}, nil
	}
}

// there looks whether a file can be sent: leave; next: not; stop: nobody knows.
func (x *run) there(name string, dirs []*static.Root) verdict {
	f, _, err := x.h.files.Open(name, dirs...)
	switch {
	case err == nil:
		f.Close()
		return leave
	case exchange.StatusOf(noFile(err)) == 404:
		return next
	}
	x.ending = func(*run) error { return err }
	return stop
}

func (x *run) file(f exchange.File, size int64, status, kind string, uncounted bool) error {
	line := statusLine{code: 200}
	if status != "" {
		var err error
		if line.code, line.reason, err = route.ParseStatus(status); err != nil {
			return &exchange.StatusError{Status: 500, Err: err}
		}
	}
	var fields []exchange.Field
	if kind != "" {
		fields = append(fields, exchange.Field{Name: "Content-Type", Value: kind})
	}
	if !uncounted {
		fields = append(fields, exchange.Field{Name: "Content-Length", Value: format(size)})
	}
	if err := x.Head(line.code, line.reason, fields); err != nil {
		return err
	}
	return x.File(f, 0, size)
}
