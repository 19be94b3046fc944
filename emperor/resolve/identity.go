package resolve

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"liege/vassal"
)

// DefaultDenyGroups are the groups that no vassal gets through its user's
// entry in the database: each of them is a way to root or to other users' data
// (CONTRACT 7).
var DefaultDenyGroups = []string{"root", "sudo", "wheel", "adm", "docker", "lxd", "libvirt", "kvm", "disk", "shadow"}

const defaultMinUID = 1000

// identity decides who the vassal runs as (CONTRACT 7).
func (r *resolver) identity() {
	name, from := r.who()
	if name == "" {
		return
	}
	if name == "auto" {
		r.auto()
		return
	}
	at := r.cfg.Ident.UserAt
	u, err := r.host.Users.User(name)
	switch id, numeric := number(name); {
	case err == nil:
	case errors.Is(err, ErrUnknown) && numeric:
		u = User{UID: id, GID: -1}
	case errors.Is(err, ErrUnknown):
		r.fail(vassal.CodeNoSuchUser, at, "uid", fmt.Sprintf("there is no user %q on this host", name), "create it (useradd), or name another")
		return
	default:
		r.fail(vassal.CodeNoSuchUser, at, "uid", err.Error(), "")
		return
	}
	r.res.UID, r.res.User, r.res.Home, r.res.UIDFrom = u.UID, u.Name, u.Home, from
	r.group(u)
	r.groups(u)
	r.allowed(at)
}

// who returns the user as written and where that comes from.
func (r *resolver) who() (name, from string) {
	id := r.cfg.Ident
	switch {
	case r.host.Caller != nil && (r.host.Caller.UID != 0 || id.User == ""):
		if id.User != "" && !r.isCaller(id.User) {
			r.warn(vassal.CodeUIDSkipped, id.UserAt, "uid", fmt.Sprintf("not root: runs as uid %d instead of %s", r.host.Caller.UID, id.User), "sudo liege serve …")
		}
		return strconv.Itoa(r.host.Caller.UID), "caller"
	case !r.cfg.Trust.Operator:
		return r.owner(), "owner of the file"
	case id.User != "":
		if id.UserAt.Layer == vassal.Defaults {
			return id.User, "[defaults]"
		}
		return id.User, "file"
	case r.host.DefaultUID != "":
		return r.host.DefaultUID, "[defaults]"
	}
	hint := `add "uid = " with the user that the app belongs to`
	if owner, dir := r.dirOwner(); owner != "" {
		hint = fmt.Sprintf("add \"uid = %s\" (owner of %s)", owner, dir)
	}
	r.fail(vassal.CodeNoUID, vassal.Origin{}, "uid", "no uid: the app would run as root", hint)
	return "", ""
}

func (r *resolver) isCaller(name string) bool {
	u, err := r.host.Users.User(name)
	return err == nil && u.UID == r.host.Caller.UID
}

// owner is the owner of a tenant's file; a uid line may only repeat it.
func (r *resolver) owner() string {
	id := r.cfg.Ident
	own := strconv.Itoa(r.cfg.Trust.UID)
	if id.User != "" && id.User != own {
		u, err := r.host.Users.User(id.User)
		if err != nil || u.UID != r.cfg.Trust.UID {
			name := own
			if o, err := r.host.Users.User(own); err == nil {
				name = o.Name
			}
			r.fail(vassal.CodeOwner, id.UserAt, "uid", fmt.Sprintf("the file belongs to %s, so it runs as %s", name, name),
				fmt.Sprintf("sudo chown root %s, or remove the line", r.cfg.File))
		}
	}
	return own
}

// auto gives the vassal a uid of its own (KERNEL 4).
func (r *resolver) auto() {
	r.res.UIDFrom = "auto"
	if r.host.AutoUID == nil {
		r.fail(vassal.CodeNoAutoUID, r.cfg.Ident.UserAt, "uid", "uid = auto needs the Emperor, which keeps who has which uid", "")
		return
	}
	uid, err := r.host.AutoUID(r.cfg.Name)
	if err != nil {
		r.fail(vassal.CodeNoAutoUID, r.cfg.Ident.UserAt, "uid", err.Error(), "")
		return
	}
	r.res.UID, r.res.GID = uid, uid
	r.group(User{UID: uid, GID: uid})
	r.addGroups()
	r.notGroupRoot()
}

// group sets the primary group: as written, else the user's own.
func (r *resolver) group(u User) {
	id := r.cfg.Ident
	r.res.GID = u.GID
	skip := r.host.Caller != nil && r.host.Caller.UID != 0
	if id.Group != "" && !skip {
		g, err := r.lookupGroup(id.Group)
		if err != nil {
			r.fail(vassal.CodeNoSuchGroup, id.GroupAt, "gid", fmt.Sprintf("there is no group %q on this host", id.Group), "create it (groupadd), or name another")
			return
		}
		if !r.cfg.Trust.Operator && g.GID != u.GID && !r.member(u.Name, g.GID) {
			r.fail(vassal.CodeOwner, id.GroupAt, "gid", fmt.Sprintf("%s is not a member of group %s", u.Name, id.Group), "remove the line")
			return
		}
		if !r.cfg.Trust.Operator && g.GID != u.GID && r.denied(g) {
			r.fail(vassal.CodeOwner, id.GroupAt, "gid", fmt.Sprintf("group %s is given to no vassal of a user", id.Group), "remove the line")
			return
		}
		r.res.GID, r.res.Group = g.GID, g.Name
		return
	}
	if r.res.GID < 0 {
		r.fail(vassal.CodeNoGID, id.UserAt, "gid", fmt.Sprintf("uid %d has no entry in the user database, so it has no group", u.UID), `add "gid = "`)
		r.res.GID = 65534
		return
	}
	if g, err := r.host.Users.Group(strconv.Itoa(r.res.GID)); err == nil {
		r.res.Group = g.Name
	}
}

func (r *resolver) lookupGroup(name string) (Group, error) {
	g, err := r.host.Users.Group(name)
	if id, numeric := number(name); err != nil && numeric {
		return Group{GID: id}, nil
	}
	return g, err
}

func (r *resolver) member(user string, gid int) bool {
	gs, err := r.host.Users.Groups(user)
	return err == nil && slices.ContainsFunc(gs, func(g Group) bool { return g.GID == gid })
}

// groups sets the supplementary groups: those of the user's entry without the
// refused ones, then add-gid.
func (r *resolver) groups(u User) {
	if r.host.Caller != nil && r.host.Caller.UID != 0 {
		return
	}
	if !r.cfg.Ident.NoInitgroups && u.Name != "" {
		gs, err := r.host.Users.Groups(u.Name)
		if err != nil {
			r.fail(vassal.CodeNoSuchGroup, vassal.Origin{}, "uid", err.Error(), "")
		}
		for _, g := range gs {
			switch {
			case g.GID == r.res.GID:
			case r.denied(g):
				r.res.Dropped = append(r.res.Dropped, g)
			default:
				r.res.Groups = append(r.res.Groups, g)
			}
		}
	}
	r.addGroups()
}

// denied reports whether g is a group that a user's membership does not bring.
func (r *resolver) denied(g Group) bool {
	deny := r.host.DenyGroups
	if deny == nil {
		deny = DefaultDenyGroups
	}
	return g.GID == 0 || slices.Contains(deny, g.Name)
}

func (r *resolver) addGroups() {
	for _, add := range r.cfg.Ident.AddGroups {
		g, err := r.lookupGroup(add.Name)
		if err != nil {
			r.fail(vassal.CodeNoSuchGroup, add.At, "add-gid", fmt.Sprintf("there is no group %q on this host", add.Name), "")
			continue
		}
		if !slices.ContainsFunc(r.res.Groups, func(o Group) bool { return o.GID == g.GID }) {
			r.res.Groups = append(r.res.Groups, g)
		}
	}
}

// allowed refuses root and, for tenants' files, system users. Who calls liege
// serve may run what they like as themselves.
func (r *resolver) allowed(at vassal.Origin) {
	if r.host.Caller != nil {
		if r.res.UID == 0 {
			r.warn(vassal.CodeUIDRoot, at, "uid", "the app runs as root", `add "uid = " with the user that the app belongs to`)
		}
		return
	}
	minUID := r.host.MinUID
	if minUID == 0 {
		minUID = defaultMinUID
	}
	switch {
	case !r.cfg.Trust.Operator && r.res.UID < minUID:
		r.fail(vassal.CodeUIDTooLow, at, "uid", fmt.Sprintf("the file belongs to uid %d; files of users below %d are not run", r.res.UID, minUID),
			fmt.Sprintf("sudo chown root %s and add a uid line, or [ceilings] min-uid", r.cfg.File))
	case r.res.UID == 0 && !r.host.AllowRoot:
		hint := `name an ordinary user; root needs "uid = root" here and "root = true" in [ceilings] of emperor.ini`
		r.fail(vassal.CodeUIDRoot, at, "uid", "the app would run as root", hint)
	case r.res.UID == 0 && r.cfg.Jail.UserNS.Line == 0:
		r.fail(vassal.CodeUIDRoot, at, "uid", "root without a user namespace is root of the host, whatever it may not do", "namespaces = user, or name an ordinary user")
	case r.res.UID == 0:
		r.rootInside(at)
	}
	r.notGroupRoot()
}

// notGroupRoot refuses root's group: what root's group may write is root's.
func (r *resolver) notGroupRoot() {
	if r.host.AllowRoot || r.res.UID == 0 {
		return
	}
	const hint = `name an ordinary group; root's needs "root = true" in [ceilings] of emperor.ini`
	if r.res.GID == 0 {
		r.fail(vassal.CodeUIDRoot, r.cfg.Ident.GroupAt, "gid", "the app would run in root's group", hint)
	}
	if slices.ContainsFunc(r.res.Groups, func(g Group) bool { return g.GID == 0 }) {
		var at vassal.Origin
		for _, add := range r.cfg.Ident.AddGroups {
			if g, err := r.lookupGroup(add.Name); err == nil && g.GID == 0 {
				at = add.At
			}
		}
		r.fail(vassal.CodeUIDRoot, at, "add-gid", "the app would be in root's group", hint)
	}
}

// dirOwner names the owner of the app's directory, for a hint.
func (r *resolver) dirOwner() (owner, dir string) {
	dir = r.appDir()
	if dir == "" {
		return "", ""
	}
	w, err := walk(r.host.FS, dir)
	if err != nil || w.uid == 0 {
		return "", ""
	}
	u, err := r.host.Users.User(strconv.Itoa(w.uid))
	if err != nil {
		return "", ""
	}
	return u.Name, dir
}
