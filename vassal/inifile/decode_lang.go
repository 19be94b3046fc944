package inifile

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"liege/vassal"
)

// languages is what the decoder keeps about apps that are not Python's, and
// about interpreters.
type languages struct {
	ruby         vassal.Ruby
	perl         vassal.Perl
	app          appLine // that names the app which counts
	versions     []pendingVersion
	interpreters map[string]*Registration // by family
}

// appLine is what names the app, and of which language it is: the last line
// counts.
type appLine struct {
	language string
	at       Setting
}

// names notes that v names an app of a language.
func (d *decoder) names(v value, language string) {
	if was := d.app; was.language != "" && was.language != language {
		d.warn(vassal.CodeTwoApps, v.Setting, fmt.Sprintf("line %d names another app; this one counts", was.at.Origin.Line), "keep one of them")
	}
	d.app = appLine{language, v.Setting}
}

// rack handles what concerns Ruby.
func (d *decoder) rack(v value) bool {
	switch v.opt.Name {
	case "rack", "rails":
		d.names(v, "ruby")
		d.ruby.File, d.ruby.At = v.Value, v.Origin
		if v.opt.Name == "rails" {
			d.ruby.File = path.Join(v.Value, "config.ru")
		}
		d.named(v)
	case "rb-lib":
		d.ruby.Lib = append(d.ruby.Lib, v.Value)
		d.named(v)
	case "rb-require":
		d.ruby.Require = append(d.ruby.Require, v.Value)
	case "shared-rb-require":
		d.ruby.SharedRequire = append(d.ruby.SharedRequire, v.Value)
	case "ruby-gc-freq":
		d.ruby.GCFreq = clampInt(v.n)
	case "rack-early-hints":
		d.ruby.EarlyHints = v.on
	case "plugins-dir": // Read has looked into it
	case "rb-threads":
		d.work.Threads = d.atLeast(v, maxWorkers)
	default:
		return false
	}
	return true
}

// psgi handles what concerns Perl.
func (d *decoder) psgi(v value) bool {
	pl := &d.perl
	switch v.opt.Name {
	case "psgi":
		d.names(v, "perl")
		pl.File, pl.At = v.Value, v.Origin
		d.named(v)
	case "perl-local-lib":
		pl.Lib = append(pl.Lib, v.Value)
		d.named(v)
	case "perl-args":
		pl.Args = strings.Fields(v.Value)
	case "perl-arg":
		pl.Args = append(pl.Args, v.Value)
	case "perl-exec":
		pl.Exec = append(pl.Exec, v.Value)
		d.named(v)
	case "psgi-enable-psgix-io":
		pl.IO = v.on
	case "perl-auto-reload":
		pl.Watch = time.Duration(max(0, min(v.n, 1<<20))) * time.Second
	case "perl-auto-reload-ignore":
		pl.Unwatched = append(pl.Unwatched, v.Value)
	case "perl-exec-post-fork":
		pl.ExecPostFork = append(pl.ExecPostFork, v.Value)
		d.named(v)
	default:
		return false
	}
	return true
}

// finishThreads makes processes of the threads that Perl does not have.
func (d *decoder) finishThreads() {
	w := &d.work
	if w.Threads < 2 {
		return
	}
	all := min(w.Processes*w.Threads, maxWorkers)
	at, ok := d.seen["threads"]
	if !ok {
		at = d.perl.At
	}
	d.note(vassal.CodeDoneOtherwise, Setting{Key: "threads", Origin: at}, fmt.Sprintf("Perl's workers have one thread: %d processes of %d threads are %d processes", w.Processes, w.Threads, all))
	w.Processes, w.Threads = all, 1
}

// finishLanguage completes the app of a language other than Python, and says
// which interpreter runs it.
func (d *decoder) finishLanguage() {
	switch d.app.language {
	case "ruby":
		d.work.Language, d.work.Ruby, d.work.Python = "ruby", &d.ruby, nil
	case "perl":
		d.work.Language, d.work.Perl, d.work.Python = "perl", &d.perl, nil
		d.finishThreads()
	default:
		d.finishAlone()
		d.finishInterpreter()
		return
	}
	d.cfg.App.Workers = &d.work
	d.finishInterpreter()
}

// family is the plugin of uWSGI that a language belongs to.
func family(language string) string {
	switch language {
	case "ruby":
		return "rack"
	case "perl":
		return "psgi"
	case "python":
		return "python3"
	}
	return language
}

// registered is the registration that a plugin line's name has, nil if it has
// none or may not have it.
func (d *decoder) registered(name string, s Setting) *Registration {
	i := slices.IndexFunc(d.f.Plugins, func(g Registration) bool { return g.Name == name && g.Origin == s.Origin })
	if i < 0 {
		if why := unregistered(name); why != "" {
			d.versions = append(d.versions, pendingVersion{why, name, s})
		}
		return nil
	}
	g := &d.f.Plugins[i]
	if d.cfg.Trust.Operator && !g.Operator && !d.pol.Serve {
		d.err(vassal.CodeNotForTenants, s, g.File+" does not belong to root, or others can write it", "sudo chown root:root "+g.File+"; sudo chmod 644 "+g.File)
		return nil
	}
	if d.interpreters == nil {
		d.interpreters = map[string]*Registration{}
	}
	d.interpreters[g.Family] = g
	return g
}

// pendingVersion is a plugin line that names a version which nothing says where
// it is.
type pendingVersion struct {
	family, name string
	s            Setting
}

// unregistered is the family of a name that stands for one version of an
// interpreter, so that another one would be a surprise. Debian's names for its
// own (python311, rack_ruby31) are none.
func unregistered(name string) string {
	base, _ := registrationBase(name)
	for _, f := range []struct{ prefix, family string }{{"rack_", "rack"}, {"psgi_", "psgi"}, {"perl_", "psgi"}, {"python2", "python3"}} {
		if rest, ok := strings.CutPrefix(base, f.prefix); ok && strings.Trim(rest, "0123456789._") == "" {
			return f.family
		}
	}
	return ""
}

// finishInterpreter takes the interpreter of a registration, where the app is
// of its family and no line names one.
func (d *decoder) finishInterpreter() {
	w := d.cfg.App.Workers
	if w == nil {
		return
	}
	g := d.interpreters[family(w.Language)]
	if g == nil {
		for _, p := range d.versions {
			if p.family == family(w.Language) && w.Interpreter == "" {
				base, _ := registrationBase(p.name)
				d.warn(vassal.CodeUnknownPlugin, p.s, fmt.Sprintf("%s is not registered: the system's own %s runs the app", base, w.Language),
					fmt.Sprintf("liege plugin build %s %s --%s /path/to/bin/%s", strings.TrimSuffix(p.family, "3"), base, w.Language, w.Language))
			}
		}
		return
	}
	if w.Interpreter != "" || w.Python != nil && w.Python.Virtualenv != "" {
		return // a line of the file itself says which
	}
	w.Interpreter = d.take(g)
}

// take makes what a registration names visible, and returns the interpreter.
func (d *decoder) take(g *Registration) string {
	dirs := []string{g.Prefix, g.GemHome}
	if !below(g.Interpreter, g.Prefix) {
		dirs = append(dirs, path.Dir(g.Interpreter))
	}
	for _, dir := range append(dirs, strings.Split(g.GemPath, ":")...) {
		if path.IsAbs(dir) && !below(dir, "/usr") && dir != "/" {
			d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: dir, Target: dir, Access: vassal.ReadOnly, Key: "plugin", At: g.Origin})
		}
	}
	var env []string
	for _, v := range [][2]string{{"GEM_HOME", g.GemHome}, {"GEM_PATH", cmp.Or(g.GemPath, g.GemHome)}} {
		if v[1] != "" {
			env = append(env, v[0]+"="+v[1])
		}
	}
	d.cfg.App.Env = append(env, d.cfg.App.Env...) // the file's own lines win
	d.cfg.EnvAt = append(slices.Repeat([]vassal.Origin{g.Origin}, len(env)), d.cfg.EnvAt...)
	return g.Interpreter
}

func below(p, dir string) bool {
	return dir != "" && (p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/"))
}
