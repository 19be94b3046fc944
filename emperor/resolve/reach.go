package resolve

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"liege/vassal"
)

// webUsers are the users that front web servers run as (CONTRACT 6).
var webUsers = []string{"www-data", "nginx", "http", "caddy", "apache"}

// Reach says whether a front web server's user can connect to a listener.
type Reach struct {
	User string
	Why  string // empty: it can; else what stops it
	Hint string
}

// reach says for every unix socket who of webUsers can connect, and warns
// where none can. Other listeners ask for no rights.
func (r *resolver) reach() {
	r.res.Reach = map[string][]Reach{}
	if r.host.Caller != nil || r.host.Users == nil {
		return
	}
	var fronts []front
	users := local(r.host.Users)
	for _, name := range webUsers {
		u, err := users.User(name)
		if err != nil || u.Name != name {
			continue
		}
		f := front{User: u, groups: []int{u.GID}}
		if gs, err := users.Groups(name); err == nil {
			for _, g := range gs {
				f.groups = append(f.groups, g.GID)
			}
		}
		fronts = append(fronts, f)
	}
	for _, l := range r.res.Listen {
		if l.Address[0] != '/' {
			continue
		}
		all := []Reach{}
		for _, f := range fronts {
			all = append(all, r.connects(f, l))
		}
		r.res.Reach[l.Address] = all
		serves := l.Protocol != vassal.Stats
		if serves && len(all) > 0 && !slices.ContainsFunc(all, func(x Reach) bool { return x.Why == "" }) {
			r.warn(vassal.CodeCannotConnect, l.At, l.Key, fmt.Sprintf("%s: no web server's user can connect: %s: %s", l.Address, all[0].User, all[0].Why), all[0].Hint)
		}
	}
}

// local are the users of u that this host has by itself, where u tells them apart.
func local(u Users) Users {
	if l, ok := u.(interface{ Local() Users }); ok {
		return l.Local()
	}
	return u
}

// front is a user of webUsers that this host has.
type front struct {
	User
	groups []int
}

func (f front) may(mode fs.FileMode, uid, gid int, bit fs.FileMode) bool {
	switch {
	case f.UID == uid:
		return mode&(bit<<6) != 0
	case slices.Contains(f.groups, gid):
		return mode&(bit<<3) != 0
	}
	return mode&bit != 0
}

// connects looks at every directory on the way to l's socket, then at the mode
// and owner that the socket will have.
func (r *resolver) connects(f front, l vassal.Listener) Reach {
	out := Reach{User: f.Name}
	dir := path.Dir(l.Address)
	for at := "/"; ; {
		fi, err := r.host.FS.Lstat(at)
		if err != nil {
			break // it will be made, 0755
		}
		if fi.Mode()&fs.ModeSymlink != 0 {
			w, err := walk(r.host.FS, at)
			if err != nil {
				break
			}
			fi = w.info
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && !f.may(fi.Mode().Perm(), int(st.Uid), int(st.Gid), 1) {
			out.Why = fmt.Sprintf("%s is %04o %s", at, fi.Mode().Perm(), r.names(int(st.Uid), int(st.Gid)))
			out.Hint = fmt.Sprintf("chmod o+x %s, or a socket in %s/", at, r.host.runDirs()[0])
			return out
		}
		if at == dir {
			break
		}
		next, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(dir, at), "/"), "/")
		at = path.Join(at, next)
	}
	mode, uid, gid := r.socketRights(l)
	if !f.may(mode, uid, gid, 2) {
		out.Why = fmt.Sprintf("the socket is %04o %s", mode, r.names(uid, gid))
		out.Hint = r.rightsHint(f, mode)
	}
	return out
}

// rightsHint is the line that lets f in: the group's, where the file may name
// it.
func (r *resolver) rightsHint(f front, mode fs.FileMode) string {
	g, err := r.host.Users.Group(strconv.Itoa(f.GID))
	known := err == nil
	mine := r.res.GID == f.GID || slices.ContainsFunc(r.res.Groups, func(x Group) bool { return x.GID == f.GID })
	if !known || !r.cfg.Trust.Operator && !mine {
		return "chmod-socket = 666"
	}
	hint := fmt.Sprintf("chown-socket = %s:%s", r.userName(r.res.UID), g.Name)
	if mode&0o060 != 0o060 {
		hint += " and chmod-socket = 660"
	}
	return hint
}

// socketRights are the mode and owner that l's socket will have.
func (r *resolver) socketRights(l vassal.Listener) (mode fs.FileMode, uid, gid int) {
	mode, uid, gid = 0o777&^r.cfg.Jail.Umask.Perm(), r.res.UID, r.res.GID
	if l.Mode != nil {
		mode = l.Mode.Perm()
	}
	user, group, _ := strings.Cut(l.Chown, ":")
	if user != "" { // nobody is asked for a user without a name
		if u, err := r.host.Users.User(user); err == nil {
			uid = u.UID
		}
	}
	if group != "" {
		if g, err := r.host.Users.Group(group); err == nil {
			gid = g.GID
		}
	}
	return mode, uid, gid
}

func (r *resolver) names(uid, gid int) string {
	group := strconv.Itoa(gid)
	if g, err := r.host.Users.Group(group); err == nil && g.Name != "" {
		group = g.Name
	}
	return r.userName(uid) + ":" + group
}

func (r *resolver) userName(uid int) string {
	if u, err := r.host.Users.User(strconv.Itoa(uid)); err == nil && u.Name != "" {
		return u.Name
	}
	return strconv.Itoa(uid)
}
