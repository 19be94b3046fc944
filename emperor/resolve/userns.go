package resolve

import (
	"fmt"
	"slices"

	"liege/vassal"
)

// IDMaps are the ids of a user namespace. Its root is a uid of the host that
// nobody else has, so what a hook, the stage or an app that is root inside does
// to the host's files it does as nobody. The vassal's own user and groups have
// the numbers of the host, so that files need no other owner.
type IDMaps struct {
	Root        int   // on the host: uid and gid of root inside
	User, Group int   // of the app, inside
	Users       []int // of the host that are themselves inside, beside Root
	Groups      []int
}

// rootInside makes an app that is root in its own user namespace: on the host
// it has the uid of that root, which is the vassal's alone (KERNEL 4).
func (r *resolver) rootInside(at vassal.Origin) {
	uid, ok := r.nsRoot(at, "uid")
	if !ok {
		return
	}
	r.res.UID, r.res.GID, r.res.Group = uid, uid, ""
	r.res.Groups, r.res.Dropped = nil, append(r.res.Dropped, r.res.Groups...)
	r.res.Maps = &IDMaps{Root: uid}
	r.addGroups()
}

// userNS fills in the maps of a user namespace.
func (r *resolver) userNS() {
	at := r.cfg.Jail.UserNS
	if at.Line == 0 || r.host.Caller != nil {
		return
	}
	if r.res.Maps == nil {
		root, ok := r.nsRoot(at, "namespaces")
		if !ok {
			return
		}
		r.res.Maps = &IDMaps{Root: root, User: r.res.UID, Group: r.res.GID, Users: []int{r.res.UID}, Groups: []int{r.res.GID}}
	}
	for _, g := range r.res.Groups {
		if m := r.res.Maps; g.GID != m.Root && !slices.Contains(m.Groups, g.GID) {
			m.Groups = append(m.Groups, g.GID)
		}
	}
	if n := len(r.res.Maps.Groups); n > maxMaps {
		r.fail(vassal.CodeBadValue, at, "namespaces", fmt.Sprintf("%d groups: the kernel maps at most %d", n, maxMaps), "no-initgroups = true")
	}
}

// maxMaps is the kernel's limit on the lines of a map, without root's.
const maxMaps = 339

// nsRoot allots the uid that root inside has on the host.
func (r *resolver) nsRoot(at vassal.Origin, key string) (int, bool) {
	if r.host.AutoUID == nil {
		r.report(vassal.Note, vassal.CodeNoAutoUID, r.at(at), key, "the Emperor allots the uid that root inside has on the host", "")
		return FirstAutoUID, true
	}
	// No vassal has a name with a slash.
	uid, err := r.host.AutoUID(r.cfg.Name + "/root")
	if err != nil {
		r.fail(vassal.CodeNoAutoUID, at, key, err.Error(), "")
		return 0, false
	}
	return uid, true
}

// mayMap refuses an idmap that would let the app own root's files, or make
// programs that run as root for whoever finds them on the host.
func (r *resolver) mayMap(b vassal.Bind, w walked) bool {
	if b.IDMap && (w.uid == 0 || w.gid == 0) {
		r.fail(vassal.CodeRefusedPath, b.At, b.Key, fmt.Sprintf("%s belongs to root (%d:%d): the app would write root's files with idmap", w.path, w.uid, w.gid), "chown it to the user that its files belong to")
		return false
	}
	return true
}
