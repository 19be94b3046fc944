package resolve

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"liege/vassal"
)

// An interpreter is what runs the apps of a language where the file does not
// say: program in the caller's PATH, for liege serve, else the system's.
type interpreter struct {
	program, system, pkg string
	libraries            []string // where the system's one finds what its users install, beside /usr
}

var interpreters = map[string]interpreter{
	"ruby": {"ruby", "/usr/bin/ruby", "ruby", []string{"/var/lib/gems"}},
	"perl": {"perl", "/usr/bin/perl", "perl", []string{"/etc/perl"}},
}

// appFileOf is the file that names the app of w, with its line and key.
func appFileOf(w *vassal.Workers) (file string, at vassal.Origin, key string) {
	switch {
	case w == nil:
	case w.Ruby != nil:
		return w.Ruby.File, w.Ruby.At, "rack"
	case w.Perl != nil:
		return w.Perl.File, w.Perl.At, "psgi"
	}
	return "", vassal.Origin{}, ""
}

// language makes the paths of a Ruby or Perl app absolute and finds its
// interpreter.
func (r *resolver) language(w *vassal.Workers) {
	file, at, key := appFileOf(w)
	if key == "" {
		return
	}
	file = r.abs(file)
	if walked, err := r.look(file); err != nil {
		r.fail(vassal.CodeNoSuchPath, at, key, reason(file, err), "")
	} else if !walked.info.Mode().IsRegular() {
		r.fail(vassal.CodeNoSuchPath, at, key, file+" is not a regular file", "")
	} else {
		r.access(walked, at, key)
	}
	each := func(ps []string) []string {
		out := slices.Clone(ps)
		for i := range out {
			out[i] = r.abs(out[i])
		}
		return out
	}
	if w.Ruby != nil {
		rb := *w.Ruby
		rb.File, rb.Lib = file, each(rb.Lib)
		w.Ruby = &rb
	}
	if w.Perl != nil {
		pl := *w.Perl
		pl.File, pl.Lib, pl.Exec, pl.ExecPostFork = file, each(pl.Lib), each(pl.Exec), each(pl.ExecPostFork)
		w.Perl = &pl
	}
	r.runner(w, at, key)
}

// runner finds the interpreter of w, or says that there is none.
func (r *resolver) runner(w *vassal.Workers, at vassal.Origin, key string) {
	in, ok := interpreters[w.Language]
	if !ok {
		return
	}
	tried := []string{w.Interpreter}
	if w.Interpreter == "" {
		tried = nil
		if c := r.host.Caller; c != nil && c.UID == r.res.UID {
			for dir := range strings.SplitSeq(c.Path, ":") {
				if path.IsAbs(dir) {
					tried = append(tried, path.Join(dir, in.program))
				}
			}
		}
		tried = append(tried, in.system)
	}
	for _, t := range tried {
		if x, err := r.look(t); err == nil && x.info.Mode().IsRegular() && x.info.Mode()&0o111 != 0 {
			w.Interpreter = t
			return
		}
	}
	hint := r.install(in.pkg)
	if w.Interpreter != "" {
		hint = fmt.Sprintf("liege plugin build writes the registration anew; without it %s runs the app", in.system)
	}
	r.fail(vassal.CodeNoInterpreter, at, key, tried[len(tried)-1]+" does not exist"+r.below()+", or cannot be executed", hint)
}

// interpreterDir is the directory of the interpreter that the file chose,
// empty where it is the system's: programs beside it (gem, bundle) come first
// in PATH.
func (r *resolver) interpreterDir() string {
	w := r.cfg.App.Workers
	if w == nil || !path.IsAbs(w.Interpreter) || within(w.Interpreter, "/usr/bin") || within(w.Interpreter, "/bin") {
		return ""
	}
	return path.Dir(path.Clean(w.Interpreter))
}

// libraries shows those of the system's interpreter outside /usr: root's own,
// and no more secret than /usr.
func (r *resolver) libraries(sys OS) {
	w := r.cfg.App.Workers
	if w == nil || r.interpreterDir() != "" {
		return
	}
	for _, dir := range interpreters[w.Language].libraries {
		x, err := walk(sys, dir)
		if err != nil || x.tenant || !x.info.IsDir() {
			continue
		}
		r.res.System = append(r.res.System, Bind{Source: x.path, Target: dir, Dir: true, Device: x.dev, Inode: x.ino})
	}
}
