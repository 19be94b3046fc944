package resolve

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"liege/vassal"
)

// exec finds the program of exec as the core will: by its path, relative to
// the app's directory, or in PATH.
func (r *resolver) exec(x *vassal.Exec) *vassal.Exec {
	if x == nil {
		return nil
	}
	out := *x
	out.Command = slices.Clone(x.Command)
	name := x.Command[0]
	if strings.Contains(name, "/") {
		out.Command[0] = r.abs(name)
		if why := r.program(out.Command[0]); why != "" {
			r.fail(vassal.CodeNoInterpreter, x.At, "exec", why, "")
		}
		return &out
	}
	dirs := r.searchPath()
	for dir := range strings.SplitSeq(dirs, ":") {
		if p := path.Join("/", dir, name); r.program(p) == "" {
			out.Command[0] = p
			return &out
		}
	}
	hint := "install it, or name it by its path"
	if pkg := servers[name]; pkg != "" {
		hint = r.install(pkg) + ", or name it by its path"
	}
	switch {
	case r.program(r.abs(name)) == "":
		hint = "exec = ./" + strings.Join(x.Command, " ")
	case r.program("/usr/sbin/"+name) == "": // where PATH does not lead: nginx, php-fpm
		hint = "exec = /usr/sbin/" + strings.Join(x.Command, " ")
	}
	r.fail(vassal.CodeNoInterpreter, x.At, "exec", name+" is not found in "+dirs+r.below(), hint)
	return &out
}

// servers are the packages of Debian with what usually runs a server.
var servers = map[string]string{"node": "nodejs", "npm": "npm", "java": "default-jre-headless", "python3": "python3", "ruby": "ruby", "perl": "perl",
	"php": "php-cli", "gunicorn": "gunicorn", "uvicorn": "uvicorn", "puma": "puma", "dotnet": "dotnet-runtime-8.0", "deno": "deno"}

// searchPath is the PATH that the app's processes have.
func (r *resolver) searchPath() (dirs string) {
	for _, kv := range append(r.baseEnv(), r.cfg.App.Env...) {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			dirs = v
		}
	}
	if c := r.host.Caller; c != nil && c.UID == r.res.UID && c.Path != "" { // as the interpreter of Python
		dirs = c.Path
	}
	return dirs
}

// php finds php-cgi and makes the paths absolute.
func (r *resolver) php(p *vassal.PHP) *vassal.PHP {
	if p == nil {
		return nil
	}
	out := *p
	for _, at := range []*string{&out.Docroot, &out.App, &out.Fallback, &out.INI} {
		*at = r.abs(*at)
	}
	for _, list := range []*[]string{&out.AllowedDocroot, &out.AllowedScript, &out.INIAppend} {
		*list = slices.Clone(*list)
		for i := range *list {
			(*list)[i] = r.abs((*list)[i])
		}
	}
	if out.Docroot != "" {
		if w, err := r.look(out.Docroot); err != nil {
			r.fail(vassal.CodeNoSuchPath, p.DocrootAt, "php-docroot", reason(out.Docroot, err), "")
		} else if !w.info.IsDir() {
			r.fail(vassal.CodeNoSuchPath, p.DocrootAt, "php-docroot", out.Docroot+" is not a directory", "")
		}
	}
	for _, f := range [][2]string{{"php-app", out.App}, {"php-fallback", out.Fallback}, {"php-ini", out.INI}} {
		if f[1] == "" {
			continue
		}
		if w, err := r.look(f[1]); err != nil {
			r.fail(vassal.CodeNoSuchPath, p.At, f[0], reason(f[1], err), "")
		} else if f[0] != "php-ini" && !w.info.Mode().IsRegular() {
			r.fail(vassal.CodeNoSuchPath, p.At, f[0], f[1]+" is not a regular file", "")
		}
	}
	out.Program = r.phpCGI(p)
	return &out
}

// phpCGI is the php-cgi that the file asks for.
func (r *resolver) phpCGI(p *vassal.PHP) string {
	if p.Program != "" {
		if why := r.program(p.Program); why != "" {
			r.fail(vassal.CodeNoInterpreter, p.At, "interpreter", why, "interpreter = /usr/bin/php-cgi")
		}
		return p.Program
	}
	tried := []string{"/usr/bin/php-cgi" + p.Version}
	if p.Version != "" { // other systems' packages
		tried = append(tried, "/usr/bin/php"+strings.ReplaceAll(p.Version, ".", "")+"-cgi", "/opt/php/"+p.Version+"/bin/php-cgi")
	} else {
		tried = append(tried, "/usr/local/bin/php-cgi")
	}
	for _, t := range tried {
		if r.program(t) == "" {
			return t
		}
	}
	pkg := "php-cgi"
	if p.Version != "" {
		pkg = "php" + p.Version + "-cgi"
	}
	r.fail(vassal.CodeNoInterpreter, p.At, "", fmt.Sprintf("PHP is not there: none of %s", strings.Join(tried, ", "))+r.below(), r.install(pkg)+", or interpreter = /path/php-cgi")
	return ""
}

// daemons makes the paths absolute.
func (r *resolver) daemons(ds []vassal.Daemon) []vassal.Daemon {
	ds = slices.Clone(ds)
	for i := range ds {
		d := &ds[i]
		d.PidFile, d.Dir = r.abs(d.PidFile), r.abs(d.Dir)
		d.Touch = slices.Clone(d.Touch)
		for j := range d.Touch {
			d.Touch[j] = r.abs(d.Touch[j])
		}
	}
	return ds
}

// serverDir is the app's directory of a file that has no other: that of the
// first absolute path of php-docroot, php-app and exec.
func (r *resolver) serverDir() (dir, key string, at vassal.Origin) {
	if p := r.cfg.App.PHP; p != nil {
		switch {
		case path.IsAbs(p.Docroot):
			return path.Clean(p.Docroot), "php-docroot", p.DocrootAt
		case path.IsAbs(p.App):
			return path.Dir(path.Clean(p.App)), "php-app", p.AppAt
		case path.IsAbs(p.Fallback):
			return path.Dir(path.Clean(p.Fallback)), "php-fallback", p.FallbackAt
		}
	}
	if x := r.cfg.App.Exec; x != nil {
		for _, w := range x.Command {
			if path.IsAbs(w) && !within(path.Clean(w), "/usr") && strings.Count(path.Clean(w), "/") > 1 && !within(path.Clean(w), "/bin") && !within(path.Clean(w), "/dev") {
				return path.Dir(path.Clean(w)), "exec", x.At
			}
		}
	}
	return "", "", at
}

// commandPaths warns about paths in commands that are there on the host and
// not inside.
func (r *resolver) commandPaths() {
	look := func(at vassal.Origin, key string, words []string) {
		for _, w := range words {
			w = strings.Trim(w, `'"`)
			if _, v, ok := strings.Cut(w, "="); ok {
				w = v
			}
			r.pathOf(at, key, key, w)
		}
	}
	if x := r.res.App.Exec; x != nil {
		look(x.At, "exec", x.Command)
	}
	for _, d := range r.res.App.Daemons {
		look(d.At, "attach-daemon", strings.Fields(d.Command))
	}
	if p := r.res.App.PHP; p != nil {
		for _, kv := range p.Set {
			look(p.At, "php-set", []string{kv})
		}
	}
}
