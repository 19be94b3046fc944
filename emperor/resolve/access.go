package resolve

import (
	"fmt"
	"io/fs"

	"liege/vassal"
)

// access warns where mode and owner keep the vassal's user out of what its app
// cannot do without: the directory it runs in, its file. An access control list
// may yet let it in.
func (r *resolver) access(w walked, at vassal.Origin, key string) {
	if r.host.Caller != nil || r.host.Users == nil || r.res.UID == 0 {
		return
	}
	me := front{User: User{UID: r.res.UID, GID: r.res.GID}, groups: []int{r.res.GID}}
	for _, g := range r.res.Groups {
		me.groups = append(me.groups, g.GID)
	}
	mode, bit, verb, letter := w.info.Mode(), fs.FileMode(4), "read", "r"
	if mode.IsDir() {
		bit, verb, letter = 1, "enter", "x"
	}
	if me.may(mode.Perm(), w.uid, w.gid, bit) {
		return
	}
	name := r.userName(r.res.UID)
	r.warn(vassal.CodeNoAccess, at, key, fmt.Sprintf("%s is %04o %s: %s cannot %s it", w.path, mode.Perm(), r.names(w.uid, w.gid), name, verb),
		fmt.Sprintf("chown %s %s, or chmod o+%s %s", name, w.path, letter, w.path))
}
