package resolve

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"liege/vassal"
	"liege/vassal/action"
)

// app completes what the core is told.
func (r *resolver) app() {
	a := r.cfg.App
	a.Name, a.Hostname, a.Listen, a.Dir = r.cfg.Name, r.hostname(), r.res.Listen, r.res.Dir
	a.Static = r.static(a.Static)
	a.CGI, a.TLS = r.cgi(a.CGI), r.tls(a.TLS)
	a.Exec, a.PHP, a.Daemons = r.exec(a.Exec), r.php(a.PHP), r.daemons(a.Daemons)
	if a.Workers != nil {
		w := *a.Workers
		a.Workers = &w
		if !w.TitlePlain {
			a.Workers.Title += string(r.cfg.Name)
		}
		r.python(a.Workers)
		r.language(a.Workers)
	}
	a.Mounting = r.mounting(a.Mounting)
	a.Env = append(r.baseEnv(), a.Env...)
	r.res.App = a
}

// static makes the paths of the static part absolute and drops those that do
// not exist: their lines have a warning from bind.
func (r *resolver) static(s vassal.Static) vassal.Static {
	each := func(ps []string) []string {
		var out []string
		for _, p := range ps {
			out = append(out, r.abs(p))
		}
		return out
	}
	s.Check, s.Safe, s.Mime = each(s.Check), each(s.Safe), each(s.Mime)
	s.Map = slices.Clone(s.Map)
	for i := range s.Map {
		s.Map[i].Dir = r.abs(s.Map[i].Dir)
	}
	return s
}

// defaultPython is the interpreter of files that name none.
const defaultPython = "/usr/bin/python3"

// python finds the interpreter and makes the app's paths absolute.
func (r *resolver) python(w *vassal.Workers) {
	if w.Python == nil {
		return
	}
	p := *w.Python
	w.Python = &p
	if p.Virtualenv == "" && r.host.Caller != nil {
		p.Virtualenv = r.host.Caller.Virtualenv
	}
	if p.Virtualenv != "" {
		p.Virtualenv = r.abs(p.Virtualenv)
	}
	p.Written = p.File
	p.File = r.appFile(p.File, p.At, cmp.Or(p.Key, "wsgi-file"))
	p.Path = slices.Clone(p.Path)
	for i := range p.Path {
		p.Path[i] = r.abs(p.Path[i])
	}
	w.Python = &p
	if w.Interpreter == "" {
		w.Interpreter = r.interpreter(p)
		return
	}
	if x, err := r.look(w.Interpreter); err != nil || !x.info.Mode().IsRegular() || x.info.Mode()&0o111 == 0 {
		at, key := p.At, "interpreter"
		if i := slices.IndexFunc(r.cfg.Jail.Named, func(b vassal.Bind) bool { return b.Key == key }); i >= 0 {
			at = r.cfg.Jail.Named[i].At
		}
		r.fail(vassal.CodeNoInterpreter, at, key, w.Interpreter+" does not exist, or cannot be executed", "virtualenv = DIR, or without the line: "+defaultPython)
	}
}

// appFile is the file of an app, absolute; empty stays empty.
func (r *resolver) appFile(file string, at vassal.Origin, key string) string {
	if file == "" {
		return ""
	}
	file = r.abs(file)
	if walked, err := r.look(file); err != nil {
		r.fail(vassal.CodeNoSuchPath, at, key, reason(file, err), "")
	} else if !walked.info.Mode().IsRegular() {
		r.fail(vassal.CodeNoSuchPath, at, key, file+" is not a regular file", "")
	} else {
		r.access(walked, at, key)
	}
	return file
}

// mounting makes the paths of the apps absolute that are mounted beside the
// first.
func (r *resolver) mounting(m *vassal.Mounting) *vassal.Mounting {
	if m == nil {
		return nil
	}
	out := *m
	out.Mounts = slices.Clone(m.Mounts)
	for i := range out.Mounts {
		if x := &out.Mounts[i]; i > 0 {
			x.Written = x.File
			x.File = r.appFile(x.File, x.At, "mount")
		}
	}
	return &out
}

// interpreter is the virtualenv's python, else the caller's, else the host's.
func (r *resolver) interpreter(p vassal.Python) string {
	var tried []string
	if p.Virtualenv != "" {
		tried = append(tried, path.Join(p.Virtualenv, "bin/python3"), path.Join(p.Virtualenv, "bin/python"))
	} else if c := r.host.Caller; c != nil && c.UID == r.res.UID {
		for dir := range strings.SplitSeq(c.Path, ":") {
			if path.IsAbs(dir) {
				tried = append(tried, path.Join(dir, "python3"))
			}
		}
	}
	if p.Virtualenv == "" {
		tried = append(tried, defaultPython)
	}
	for _, t := range tried {
		if w, err := r.look(t); err == nil && w.info.Mode().IsRegular() && w.info.Mode()&0o111 != 0 {
			return t
		}
	}
	at := p.At
	if p.Virtualenv == "" {
		r.fail(vassal.CodeNoInterpreter, at, "", defaultPython+" does not exist"+r.below(), r.install("python3"))
		return ""
	}
	i := slices.IndexFunc(r.cfg.Jail.Named, func(b vassal.Bind) bool { return r.abs(b.Source) == p.Virtualenv })
	key := "virtualenv"
	if i >= 0 {
		at, key = r.cfg.Jail.Named[i].At, r.cfg.Jail.Named[i].Key
	}
	r.fail(vassal.CodeNoInterpreter, at, key, fmt.Sprintf("%s holds no bin/python3: not a virtualenv", p.Virtualenv), "python3 -m venv "+p.Virtualenv)
	return ""
}

// venvBase is the prefix of the interpreter that a virtualenv was made from,
// named by the line "home" of its pyvenv.cfg (PEP 405).
func (r *resolver) venvBase() []vassal.Bind {
	w := r.cfg.App.Workers
	if w == nil || w.Python == nil || w.Python.Virtualenv == "" {
		return nil
	}
	cfg := path.Join(r.abs(w.Python.Virtualenv), "pyvenv.cfg")
	text, err := r.view().ReadFile(cfg)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			r.warn(vassal.CodeUnreadable, w.Python.At, "virtualenv", reason(cfg, err), "")
		}
		return nil
	}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.TrimSpace(key) != "home" {
			continue
		}
		home := path.Clean(strings.TrimSpace(value)) // the directory of the base's python
		if prefix := path.Dir(home); path.IsAbs(home) && path.Base(home) == "bin" && !within(home, "/usr") && prefix != "/" {
			return []vassal.Bind{{Source: prefix, Access: vassal.ReadOnly, Key: "virtualenv", At: vassal.Origin{File: cfg}}}
		}
	}
	return nil
}

// baseEnv is the environment of every vassal before its env lines
// (CONTRACT 4): nothing of the Emperor's.
func (r *resolver) baseEnv() []string {
	dirs := "/usr/local/bin:/usr/bin:/bin"
	if w := r.cfg.App.Workers; w != nil && w.Python != nil && w.Python.Virtualenv != "" {
		dirs = path.Join(r.abs(w.Python.Virtualenv), "bin") + ":" + dirs
	}
	if dir := r.interpreterDir(); dir != "" {
		dirs = dir + ":" + dirs
	}
	home := r.res.Home
	if home == "" || !r.shows(home) {
		home = r.res.Dir
	}
	if home == "" {
		home = "/"
	}
	name := r.res.User
	if name == "" {
		name = strconv.Itoa(r.res.UID)
	}
	return []string{"PATH=" + dirs, "HOME=" + home, "USER=" + name, "LOGNAME=" + name, "SHELL=/bin/sh", "LANG=C.UTF-8"}
}

// hooks turns the names in hooks into numbers: the stage looks up nothing. Each
// hook goes to who runs it. What those before the root is entered put into the
// environment is for the stage inside, which comes after them.
func (r *resolver) hooks() {
	for _, h := range r.cfg.Hooks {
		if h.Action == "chown" {
			withIDs, err := r.chown(h)
			if err != nil {
				continue
			}
			h = withIDs
		}
		switch place := h.Phase.Place(); {
		case place == vassal.AtHost && putsEnv(h):
			h.Phase = vassal.InJail
			r.res.Plan.Hooks = append(r.res.Plan.Hooks, h)
		case place == vassal.AtEmperor || place == vassal.AtHost:
			r.leavesNothing(h)
			r.res.HostHooks = append(r.res.HostHooks, h)
		case h.Phase == vassal.PreApp && putsEnv(h):
			// its variable is one of App.Env already
		case place == vassal.AtCore:
			r.res.App.Hooks = append(r.res.App.Hooks, h)
		default:
			r.res.Plan.Hooks = append(r.res.Plan.Hooks, h)
		}
	}
	r.res.App.HookTime = r.cfg.HookTime
}

// leavesNothing warns of a mount that is gone before the application could see
// it: it is not below the root that the file names. Where the file names none,
// inifile brought it inside.
func (r *resolver) leavesNothing(h vassal.Hook) {
	c, err := action.Parse(h)
	if err == nil && r.cfg.Jail.Root.Inside && h.Phase.Place() == vassal.AtHost && c.Kind == action.Mount {
		r.warn(vassal.CodeNotVisible, h.At, h.Option(), c.Path+": what is mounted before the sandbox's own root is entered is not visible in it",
			"bind = "+cmp.Or(c.Source, "/srv/x")+":"+c.Path+", or mount-as-root = …")
	}
}

// putsEnv reports whether h sets a variable and does nothing else.
func putsEnv(h vassal.Hook) bool {
	c, err := action.Parse(h)
	return err == nil && c.Kind == action.Putenv
}

// chown is h with numbers; an error was told.
func (r *resolver) chown(h vassal.Hook) (vassal.Hook, error) {
	f := strings.Fields(h.Arg)
	if len(f) != 3 {
		err := errors.New("chown takes FILE USER GROUP")
		r.fail(vassal.CodeBadHook, h.At, h.Option(), err.Error(), "")
		return h, err
	}
	u, err1 := r.host.Users.User(f[1])
	g, err2 := r.lookupGroup(f[2])
	if err := errors.Join(err1, err2); err != nil {
		r.fail(vassal.CodeNoSuchUser, h.At, h.Option(), "chown: "+err.Error(), "")
		return h, err
	}
	withIDs, err := action.WithIDs(h, u.UID, g.GID)
	if err != nil {
		r.fail(vassal.CodeBadHook, h.At, h.Option(), err.Error(), "")
	}
	return withIDs, err
}

// RootPath is where root's hooks look for programs.
const RootPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Defaults of a plan.
const (
	maxFiles  = 65536   // RLIMIT_NOFILE of the core
	maxLocked = 8 << 20 // RLIMIT_MEMLOCK, the kernel's own default
)

// fileLimit is maxFiles, or this process's own limit where that is less.
func fileLimit() uint64 {
	var own syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &own); err != nil {
		return maxFiles
	}
	return min(own.Max, maxFiles)
}

// plan fills in the rest of the stage's plan.
func (r *resolver) plan() {
	p := &r.res.Plan
	p.Name, p.UID, p.GID = r.cfg.Name, r.res.UID, r.res.GID
	if m := r.res.Maps; m != nil {
		p.UID, p.GID = m.User, m.Group
	}
	p.Groups = []int{}
	for _, g := range r.res.Groups {
		p.Groups = append(p.Groups, g.GID)
	}
	p.HookTime, p.KeepDaemons = max(1, int(r.cfg.HookTime.Seconds())), r.cfg.HookDaemons
	p.Umask = int(r.cfg.Jail.Umask)
	p.Env = r.baseEnv()
	p.HookEnv = []string{
		RootPath, "LANG=C.UTF-8",
		"LIEGE_VASSAL=" + string(r.cfg.Name), "UWSGI_VASSAL_CONFIG=" + r.cfg.File,
		fmt.Sprintf("UWSGI_VASSAL_UID=%d", p.UID), fmt.Sprintf("UWSGI_VASSAL_GID=%d", p.GID),
	}
	p.Dir = r.res.Dir
	p.Rlimits = r.rlimits()
	r.guard()
	p.Args = []string{"liege-core " + string(r.cfg.Name)}
}
