package expand

import (
	"context"
	"slices"
	"sync"

	"liege/emperor"
	"liege/emperor/asuser"
	"liege/vassal"
	"liege/vassal/inifile"
)

// watch answers whether what f reads besides itself has changed. An operator's
// file is read anew each time. A tenant's would need a child for that, so what
// it reads is looked at first, and read only when it looks different.
type watch struct {
	set    Settings
	file   emperor.File
	digest vassal.Digest

	paths []string // what may be looked at instead; nil: nothing but reading tells
	who   asuser.Who
	seen  []string // how they looked
	sure  bool     // they were read since, and later than the clock of a file system is coarse
}

func newWatch(set Settings, f emperor.File, queries []inifile.Query, digest vassal.Digest) *watch {
	w := &watch{set: set, file: f, digest: digest}
	if f.Trust.Operator {
		return w
	}
	who, _, err := Owner(set.Prepare.Host.Users, f.Trust.UID, set.Prepare.Host.DenyGroups)
	if err != nil {
		return w
	}
	var paths []string
	for _, q := range queries {
		switch q.Kind {
		case "file", "stat":
			if mayRead(q.Name) != nil {
				return w
			}
			paths = append(paths, q.Name)
		case "hostname", "user", "cpus": // they change with the host
		default:
			return w
		}
	}
	w.paths, w.who = paths, who
	return w
}

// changed looks once.
func (w *watch) changed(ctx context.Context) bool {
	var looks []string
	if w.paths != nil {
		looks = asuser.Looks(w.who, w.paths)
		if same := slices.Equal(looks, w.seen); same && w.sure {
			return false
		} else if !same {
			w.sure = false
		}
	}
	if !w.file.Trust.Operator {
		if !readers.take(w.file.Trust.UID) {
			return false // it is asked again
		}
		defer readers.give(w.file.Trust.UID)
	}
	d, err := w.set.digest(ctx, w.file)
	if err != nil {
		return false // who cannot be asked has not said that it changed
	}
	w.sure, w.seen = slices.Equal(looks, w.seen), looks
	return d != w.digest
}

// readers are the users as whom a child reads for changed: one at a time, for
// all vassals of a user, so that a file system that hangs holds one.
var readers = users{in: map[int]bool{}}

type users struct {
	mu sync.Mutex
	in map[int]bool
}

func (u *users) take(uid int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.in[uid] {
		return false
	}
	u.in[uid] = true
	return true
}

func (u *users) give(uid int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.in, uid)
}
