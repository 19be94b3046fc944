package expand

import (
	"context"
	"slices"
	"sync"
	"time"

	"liege/emperor"
	"liege/emperor/asuser"
	"liege/vassal"
	"liege/vassal/inifile"
)

// watch answers whether what f reads besides itself has changed. What it reads is
// looked at, and read anew only when it looks different: that costs a hundredth, of
// an operator's file, and a child of a user's. What no look tells, the names in a
// directory, is read anew each time, but seldom where that takes long.
type watch struct {
	set    Settings
	file   emperor.File
	digest vassal.Digest

	paths []string // what may be looked at instead; nil: nothing but reading tells
	who   asuser.Who
	seen  []string // how they looked
	sure  bool     // they were read since, and later than the clock of a file system is coarse

	rest time.Time // before that it is not read again without a reason
}

// restFor is how many times as long as a reading took the next one may wait.
const restFor = 100

func newWatch(set Settings, f emperor.File, queries []inifile.Query, digest vassal.Digest) *watch {
	w := &watch{set: set, file: f, digest: digest}
	var who asuser.Who // root
	if !f.Trust.Operator {
		var err error
		if who, _, err = Owner(set.Prepare.Host.Users, f.Trust.UID, set.Prepare.Host.DenyGroups); err != nil {
			return w
		}
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
		case "env": // and this with the Emperor
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
		if w.file.Trust.Operator {
			looks = asuser.LooksHere(w.paths)
		} else {
			looks = asuser.Looks(w.who, w.paths)
		}
		if same := slices.Equal(looks, w.seen); same && w.sure {
			return false
		} else if !same {
			w.sure = false
		}
	}
	began := time.Now()
	if w.paths == nil && began.Before(w.rest) {
		return false
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
	w.rest = time.Now().Add(restFor * time.Since(began))
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
