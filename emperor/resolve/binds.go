package resolve

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"liege/vassal"
)

// DefaultTenantBinds is where the paths of tenants' files may lie when
// [ceilings] bind does not say.
var DefaultTenantBinds = []string{"/home", "/srv", "/opt", "/var/www"}

// neverBound are the directories that no option binds by merely naming them,
// nor a directory that contains one of them (CONTRACT 4).
var neverBound = []string{
	"/etc", "/root", "/boot", "/proc", "/sys", "/dev", "/run", "/var/lib", "/var/log", "/var/spool",
}

// notEver are the directories that even a bind line cannot name, nor anything
// below them: the sandbox has its own.
var notEver = []string{"/proc", "/sys", "/dev"}

// notOver are the directories that no bind can cover: the stage and the core
// run from one, and what they ask the kernel goes through the others.
var notOver = []string{"/.liege", "/proc", "/sys"}

// appDir is the app's directory as written, absolute: chdir, else the
// directory of the first absolute path of the app. Empty: none.
func (r *resolver) appDir() string {
	dir, _, _ := r.chosenDir()
	return dir
}

// chosenDir is appDir with the line that names it.
func (r *resolver) chosenDir() (dir, key string, at vassal.Origin) {
	if dir := r.cfg.Jail.Chdir; dir != "" {
		if !path.IsAbs(dir) {
			dir = path.Join(r.base(), dir)
		}
		return canonRun(path.Clean(dir)), "chdir", r.cfg.Jail.ChdirAt
	}
	if w := r.cfg.App.Workers; w != nil && w.Python != nil && path.IsAbs(w.Python.File) {
		return path.Dir(path.Clean(w.Python.File)), cmp.Or(w.Python.Key, "wsgi-file"), w.Python.At
	}
	if file, at, key := appFileOf(r.cfg.App.Workers); path.IsAbs(file) {
		return path.Dir(path.Clean(file)), key, at
	}
	if r.host.Caller != nil {
		return r.host.Caller.Cwd, "chdir", vassal.Origin{}
	}
	if dir, key, at := r.serverDir(); dir != "" {
		return dir, key, at
	}
	if dir, at := r.cgiDir(); dir != "" {
		return dir, "cgi", at
	}
	return "", "", vassal.Origin{}
}

// directory resolves the app's directory.
func (r *resolver) directory() {
	dir, key, at := r.chosenDir()
	if dir == "" {
		r.res.Base = r.base()
		return
	}
	r.dirAt = at
	r.res.Base, r.res.BaseByUser = dir, r.cfg.ByUser(at)
	w, err := r.find(dir)
	if err != nil {
		if key != "cgi" { // else cgi says so
			r.fail(vassal.CodeNoSuchPath, at, key, reason(dir, err), "")
		}
		return
	}
	if !w.info.IsDir() {
		r.fail(vassal.CodeNoSuchPath, at, key, dir+" is not a directory", "")
		return
	}
	// The operator's relative paths begin in it: logs, sockets, certificates.
	if r.cfg.Trust.Operator && r.cfg.ByUser(at) && w.uid != r.res.UID {
		r.fail(vassal.CodeNotForTenants, at, key, fmt.Sprintf("%s belongs to uid %d, not to the vassal's user: a line of a user's file does not make it the app's directory", w.path, w.uid),
			"write chdir into the vassal's own file")
		return
	}
	r.res.Dir = w.path
	r.access(w, at, key)
}

// binds resolves every path that the file names, and drops what is visible
// anyway.
func (r *resolver) binds() {
	if dir := r.appDir(); dir != "" && r.res.Dir != "" && r.cfg.Jail.AutoBind {
		r.bind(vassal.Bind{Source: dir, Access: vassal.ReadWrite, Key: "chdir", At: r.dirAt}, false, walked{})
	}
	for _, b := range r.cfg.Jail.Binds {
		r.bind(b, true, walked{})
	}
	if r.cfg.Jail.AutoBind {
		for _, b := range r.cfg.Jail.Named {
			r.bind(b, false, walked{})
		}
		for _, b := range r.venvBase() {
			r.bind(b, false, r.writer(b.At.File)) // whoever can write the virtualenv named it
		}
	}
	r.prune()
}

// bind adds one bind. Explicit: by a bind line; by: somebody other than root who
// may have said where it is.
func (r *resolver) bind(b vassal.Bind, explicit bool, by walked) {
	src := r.abs(b.Source)
	elsewhere := b.Target != "" && r.abs(b.Target) != src
	if r.visible(src) && !(explicit && (r.tree != nil || elsewhere)) {
		return
	}
	if !explicit && r.ofTree(b, src) {
		return
	}
	w, err := walk(r.host.FS, src)
	if err != nil {
		if !explicit && errors.Is(err, fs.ErrNotExist) {
			if b.Key == "cgi" {
				return // cgi says so
			}
			r.warn(vassal.CodeNoSuchPath, b.At, b.Key, reason(src, err), "")
			return
		}
		r.fail(vassal.CodeNoSuchPath, b.At, b.Key, reason(src, err), "")
		return
	}
	if !r.mayBind(b, w.path, explicit) || !r.mayLead(b, w, by) {
		return
	}
	target := w.path
	if elsewhere {
		target = r.abs(b.Target)
		if r.cfg.ByUser(b.At) && !r.mayCover(b.At, b.Key, target) {
			return
		}
		if target == "/" || target == "/dev" || slices.ContainsFunc(notOver, func(dir string) bool { return within(target, dir) }) {
			r.fail(vassal.CodeRefusedPath, b.At, b.Key, "nothing can be put at "+target+", which Liege fills", "name another place for it")
			return
		}
	} else {
		r.res.Links = append(r.res.Links, w.links...)
	}
	if !r.placeInTree(b.At, b.Key, target) || !r.mayMap(b, w) {
		return
	}
	led := by.led || r.cfg.Trust.Operator && r.cfg.Tenant(b.At) // root goes nowhere for it
	r.res.Binds = append(r.res.Binds, Bind{
		Source: w.path, Target: target, Writable: b.Access != vassal.ReadOnly, Dir: w.info.IsDir(), Recurse: b.Recursive, NoExec: b.NoExec, IDMap: b.IDMap, UID: w.uid, GID: w.gid,
		Tenant: led || w.tenant || w.uid != 0, Led: led || w.led, Device: w.dev, Inode: w.ino, Why: b.Key, At: b.At,
	})
}

// mayCover reports whether a user's line may put something at target. Root runs
// programs of the sandbox's (hooks, liege enter --root), and hooks of the
// operator's work on paths in it: what they find there must not be a user's. So it
// is only where users' paths lie anyway.
func (r *resolver) mayCover(at vassal.Origin, key, target string) bool {
	refuse := func(why, hint string) bool {
		r.fail(vassal.CodeRefusedPath, at, key, fmt.Sprintf("a file of a user can put nothing at %s: %s", target, why), hint)
		return false
	}
	if !r.inBinds(target) || slices.ContainsFunc(treeDirs, func(d string) bool { return within(target, d) }) {
		return refuse("root's programs may look there", "a place below "+strings.Join(r.tenantBinds(), " "))
	}
	for _, h := range r.cfg.Hooks {
		if !r.cfg.ByUser(h.At) && slices.Contains([]vassal.Phase{vassal.AsRoot, vassal.InJail, vassal.PostJail}, h.Phase) {
			return refuse(fmt.Sprintf("a hook of root's works inside (%s:%d)", r.at(h.At).File, h.At.Line), "bind = PATH without another target")
		}
	}
	return true
}

// visible reports whether p is part of what every vassal sees.
func (r *resolver) visible(p string) bool {
	if r.tree != nil {
		return slices.ContainsFunc(treeDirs, func(dir string) bool { return within(p, dir) })
	}
	return within(p, "/usr") || slices.ContainsFunc(r.res.System, func(s Bind) bool { return within(p, s.Target) }) ||
		slices.ContainsFunc(r.res.Masked, func(m string) bool { return within(p, m) })
}

// mayBind applies the rules of CONTRACT 4 to a resolved source.
func (r *resolver) mayBind(b vassal.Bind, p string, explicit bool) bool {
	if r.host.Caller != nil { // nothing is bound: it sees the host
		return true
	}
	refuse := func(code, msg, hint string) bool {
		r.fail(code, b.At, b.Key, msg, hint)
		return false
	}
	for _, dir := range append(slices.Clone(r.host.Reserved), notEver...) {
		if within(p, dir) || within(dir, p) {
			return refuse(vassal.CodeRefusedPath, fmt.Sprintf("%s cannot be made visible: it is, holds or lies in %s", p, dir), "name a narrower path")
		}
	}
	tenant := r.cfg.Tenant(b.At)
	if !explicit || tenant {
		if strings.Count(p, "/") == 1 {
			return refuse(vassal.CodeRefusedPath, p+" is not made visible by itself: it is a directory of the root", "name a narrower path, or "+r.bindHint(p))
		}
		for _, dir := range neverBound {
			if within(dir, p) {
				return refuse(vassal.CodeRefusedPath, fmt.Sprintf("%s is not made visible by itself: it is or holds %s", p, dir), "name a narrower path, or "+r.bindHint(p))
			}
		}
	}
	if !tenant {
		return true
	}
	if !r.inBinds(p) {
		return refuse(vassal.CodeOverCeiling, fmt.Sprintf("%s lies outside %s, where files of users may name paths", p, strings.Join(r.tenantBinds(), " ")), "[ceilings] bind in emperor.ini")
	}
	return true
}

// writer is who may have written the file p, besides root.
func (r *resolver) writer(p string) walked {
	w, err := r.look(p)
	if err != nil || !w.tenant && !movable(w.info) {
		return walked{led: err != nil, leader: -1}
	}
	if w.led && w.leader != w.uid { // by a link to what somebody else wrote for another end
		return walked{led: true, leader: -1}
	}
	return walked{led: true, leader: w.uid}
}

// mayLead bounds where somebody besides root may lead an operator's line, by a
// link or by what a file of theirs says: to what they own, and to what files of
// users may name.
func (r *resolver) mayLead(b vassal.Bind, w, by walked) bool {
	for _, who := range []walked{w, by} {
		if who.led && who.leader != w.uid && !r.inBinds(w.path) && r.host.Caller == nil {
			r.fail(vassal.CodeOverCeiling, b.At, b.Key, fmt.Sprintf("leads to %s by the word of somebody who does not own that, and it lies outside %s", w.path, strings.Join(r.tenantBinds(), " ")),
				"name "+w.path+" itself, or [ceilings] bind in emperor.ini")
			return false
		}
	}
	return true
}

// tenantBinds are the directories in which files of users may name paths.
func (r *resolver) tenantBinds() []string {
	if r.host.Binds == nil {
		return DefaultTenantBinds
	}
	return r.host.Binds
}

func (r *resolver) inBinds(p string) bool {
	return slices.ContainsFunc(r.tenantBinds(), func(dir string) bool { return within(p, path.Clean(dir)) })
}

func (r *resolver) bindHint(p string) string {
	if r.cfg.Trust.Operator {
		return fmt.Sprintf("say it with a line of its own: bind = %s", p)
	}
	return "ask the operator"
}

// prune orders the binds, parents first, and drops those that another one
// shows with the same or a wider right. What an option names inside the app's
// directory stays as the app's directory is; only a bind line narrows it.
func (r *resolver) prune() {
	slices.SortStableFunc(r.res.Binds, func(a, b Bind) int {
		return cmp.Or(cmp.Compare(a.Target, b.Target), boolCompare(b.Writable, a.Writable))
	})
	var kept []Bind
	for _, b := range r.res.Binds {
		i := slices.IndexFunc(kept, func(k Bind) bool {
			rest, below := strings.CutPrefix(b.Target, k.Target)
			return below && (rest == "" || rest[0] == '/') && b.Source == k.Source+rest
		})
		if i >= 0 && (kept[i].Writable || !b.Writable) && (b.Why != "bind" || kept[i].Writable == b.Writable) && b.Recurse == kept[i].Recurse && b.NoExec == kept[i].NoExec && b.IDMap == kept[i].IDMap {
			continue
		}
		kept = append(kept, b)
	}
	r.res.Binds = kept
	shown := func(p string) bool {
		return r.visible(p) || slices.ContainsFunc(kept, func(k Bind) bool { return within(p, k.Target) })
	}
	r.res.Links = slices.DeleteFunc(r.res.Links, func(l Link) bool { return shown(path.Dir(l.Path)) || r.visible(l.Path) })
	slices.SortFunc(r.res.Links, func(a, b Link) int { return cmp.Compare(a.Path, b.Path) })
	r.res.Links = slices.CompactFunc(r.res.Links, func(a, b Link) bool { return a.Path == b.Path })
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// reason says in words why a path cannot be used.
func reason(p string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p + " does not exist"
	case errors.Is(err, fs.ErrPermission):
		return p + " cannot be reached by the vassal's user"
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Sprintf("%s: %v", pe.Path, pe.Err)
	}
	return fmt.Sprintf("%s: %v", p, err)
}
