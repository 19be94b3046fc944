package resolve

import (
	"path"
	"slices"
	"strings"

	"liege/vassal"
)

// cgi makes the paths of CGI programs absolute, and says which directory or
// helper is not there: every request for it would fail.
func (r *resolver) cgi(c *vassal.CGI) *vassal.CGI {
	if c == nil {
		return nil
	}
	out := *c
	out.Mounts, out.Safe = slices.Clone(c.Mounts), slices.Clone(c.Safe)
	for i := range out.Mounts {
		m := &out.Mounts[i]
		m.Path = r.abs(m.Path)
		w, err := r.look(m.Path)
		switch {
		case err != nil:
			r.fail(vassal.CodeNoSuchPath, m.At, "cgi", reason(m.Path, err), "")
		case w.info.Mode().IsRegular() && w.info.Mode()&0o111 == 0 && !helped(c, m.Path):
			r.fail(vassal.CodeNoSuchPath, m.At, "cgi", m.Path+" is neither a directory nor a program that may be executed", "chmod +x "+m.Path+", or a cgi-helper line for it")
		case !w.info.Mode().IsRegular() && !w.info.IsDir():
			r.fail(vassal.CodeNoSuchPath, m.At, "cgi", m.Path+" is neither a directory nor a program", "")
		}
	}
	for i := range out.Safe {
		out.Safe[i] = r.abs(out.Safe[i])
	}
	for _, h := range c.Helpers {
		r.helper(h)
	}
	return &out
}

func helped(c *vassal.CGI, p string) bool {
	return slices.ContainsFunc(c.Helpers, func(h vassal.CGIHelper) bool { return strings.HasSuffix(p, h.Ext) })
}

// helper looks for the command of a cgi-helper line where the core will.
func (r *resolver) helper(h vassal.CGIHelper) {
	if strings.Contains(h.Command, "/") {
		if !path.IsAbs(h.Command) {
			r.fail(vassal.CodeNoSuchPath, h.At, "cgi-helper", h.Command+" is neither a name nor an absolute path", "")
		} else if why := r.program(h.Command); why != "" {
			r.fail(vassal.CodeNoSuchPath, h.At, "cgi-helper", why, "")
		}
		return
	}
	dirs := ""
	for _, kv := range append(r.baseEnv(), r.cfg.App.Env...) {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			dirs = v
		}
	}
	for dir := range strings.SplitSeq(dirs, ":") {
		if r.program(path.Join("/", dir, h.Command)) == "" {
			return
		}
	}
	hint := "install it, or name it by its path"
	if pkg := packages[h.Command]; pkg != "" {
		hint = r.install(pkg) + ", or name it by its path"
	}
	r.fail(vassal.CodeNoSuchPath, h.At, "cgi-helper", h.Command+" is not found in "+dirs+r.below(), hint)
}

// packages are those of Debian that have the usual helpers.
var packages = map[string]string{"lua": "lua5.4", "php-cgi": "php-cgi", "php": "php-cli", "perl": "perl", "python3": "python3", "ruby": "ruby", "tclsh": "tcl"}

// program says why p cannot be run; empty: it can.
func (r *resolver) program(p string) string {
	w, err := r.look(p)
	switch {
	case err != nil:
		return reason(p, err)
	case !w.info.Mode().IsRegular() || w.info.Mode()&0o111 == 0:
		return p + " is no program that may be executed"
	}
	return ""
}

// cgiDir is the app's directory of a file that has no other: that of the first
// cgi line.
func (r *resolver) cgiDir() (dir string, at vassal.Origin) {
	c := r.cfg.App.CGI
	if c == nil || len(c.Mounts) == 0 || !path.IsAbs(c.Mounts[0].Path) {
		return "", at
	}
	m := c.Mounts[0]
	if w, err := r.find(m.Path); err == nil && w.info.Mode().IsRegular() {
		return path.Dir(path.Clean(m.Path)), m.At
	}
	return path.Clean(m.Path), m.At
}
