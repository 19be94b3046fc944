package resolve

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"liege/selinux"
	"liege/vassal"
	"liege/vassal/action"
)

// app completes what the core is told.
func (r *resolver) app() {
	a := r.cfg.App
	a.Name, a.Hostname, a.Listen, a.Dir = r.cfg.Name, r.hostname(), r.res.Listen, r.res.Dir
	a.Static = r.static(a.Static)
	if a.Workers != nil {
		w := *a.Workers
		a.Workers = &w
		if !w.TitlePlain {
			a.Workers.Title += string(r.cfg.Name)
		}
		r.python(a.Workers)
	}
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
	if p.File != "" {
		p.File = r.abs(p.File)
		if walked, err := walk(r.host.FS, p.File); err != nil {
			r.fail(vassal.CodeNoSuchPath, p.At, "wsgi-file", reason(p.File, err), "")
		} else if !walked.info.Mode().IsRegular() {
			r.fail(vassal.CodeNoSuchPath, p.At, "wsgi-file", p.File+" is not a regular file", "")
		}
	}
	p.Path = slices.Clone(p.Path)
	for i := range p.Path {
		p.Path[i] = r.abs(p.Path[i])
	}
	w.Python = &p
	if w.Interpreter == "" {
		w.Interpreter = r.interpreter(p)
	}
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
		if w, err := walk(r.host.FS, t); err == nil && w.info.Mode().IsRegular() && w.info.Mode()&0o111 != 0 {
			return t
		}
	}
	at := p.At
	if p.Virtualenv == "" {
		r.fail(vassal.CodeNoInterpreter, at, "", defaultPython+" does not exist", "apt install python3")
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
	text, err := r.host.FS.ReadFile(cfg)
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

// hooks turns the names in hooks into numbers: the stage looks up nothing.
func (r *resolver) hooks() {
	for _, h := range r.cfg.Hooks {
		if h.Action == "chown" {
			f := strings.Fields(h.Arg)
			if len(f) != 3 {
				r.fail(vassal.CodeBadHook, h.At, "hook-"+string(h.Phase), "chown takes FILE USER GROUP", "")
				continue
			}
			u, err1 := r.host.Users.User(f[1])
			g, err2 := r.lookupGroup(f[2])
			if err := errors.Join(err1, err2); err != nil {
				r.fail(vassal.CodeNoSuchUser, h.At, "hook-"+string(h.Phase), "chown: "+err.Error(), "")
				continue
			}
			withIDs, err := action.WithIDs(h, u.UID, g.GID)
			if err != nil {
				r.fail(vassal.CodeBadHook, h.At, "hook-"+string(h.Phase), err.Error(), "")
				continue
			}
			h = withIDs
		}
		r.res.Plan.Hooks = append(r.res.Plan.Hooks, h)
	}
}

// context asks the loaded policy about the SELinux context.
func (r *resolver) context() {
	id := r.cfg.Ident
	if id.Context == "" {
		return
	}
	key := "selinux-context"
	if id.ContextByHook {
		key = "hook-as-user"
	}
	r.res.Plan.Line = r.at(id.ContextAt)
	if r.host.Context == nil {
		r.fail(vassal.CodeNoSELinux, id.ContextAt, key, "SELinux contexts are not known here", "")
		return
	}
	canonical, err := r.host.Context(id.Context)
	if r.host.WarnSELinux && errors.Is(err, selinux.ErrOff) {
		r.warn(vassal.CodeNoSELinux, id.ContextAt, key, fmt.Sprintf("%s: %v; it runs without a domain, as [emperor] selinux = warn allows", id.Context, err), "")
		return
	}
	if err != nil {
		r.fail(vassal.CodeNoSELinux, id.ContextAt, key, fmt.Sprintf("%s: %v", id.Context, err), "")
		return
	}
	r.res.Plan.Context = canonical
}

// Defaults of a plan.
const (
	hookTime  = 120     // seconds that one hook may take
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
	p.Groups = []int{}
	for _, g := range r.res.Groups {
		p.Groups = append(p.Groups, g.GID)
	}
	p.HookTime = hookTime
	p.Umask = int(r.cfg.Jail.Umask)
	p.Env = r.baseEnv()
	p.HookEnv = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8",
		"LIEGE_VASSAL=" + string(r.cfg.Name), "UWSGI_VASSAL_CONFIG=" + r.cfg.File,
		fmt.Sprintf("UWSGI_VASSAL_UID=%d", p.UID), fmt.Sprintf("UWSGI_VASSAL_GID=%d", p.GID),
	}
	p.Dir = r.res.Dir
	p.Rlimits = append(p.Rlimits, vassal.Rlimit{Resource: "core"}, vassal.Rlimit{Resource: "nofile", Value: fileLimit()}, vassal.Rlimit{Resource: "memlock", Value: maxLocked})
	p.OOMScore = 100
	p.Args = []string{"liege-core " + string(r.cfg.Name)}
}
