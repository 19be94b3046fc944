package resolve

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"github.com/moby/sys/user"
)

// User is one entry of the user database.
type User struct {
	Name     string
	UID, GID int
	Home     string
}

// Users answers from the user and group database.
type Users interface {
	// User finds by name, or by number if name is one. ErrUnknown if there
	// is no entry.
	User(name string) (User, error)
	Group(name string) (Group, error)
	// Groups are the groups that list the user as a member.
	Groups(user string) ([]Group, error)
}

// ErrUnknown is returned for a user or group that the database does not have.
var ErrUnknown = errors.New("not in the user database")

// Files is the database of /etc/passwd and /etc/group, with getent(1) run as a
// child for what they do not have: no name service module is ever loaded into
// this process (KERNEL 38).
type Files struct {
	PasswdFile, GroupFile string // paths; empty: those of /etc
	NoGetent              bool
	Asked                 *Asked // nil: getent is run, and the files are read, for each question
}

// Asked remembers for a few seconds what getent(1) said, above all that nobody
// knows a name, and the files for as long as they do not change: with thousands
// of vassals the same questions come thousands of times.
type Asked struct {
	users  kept[user.User]
	groups kept[user.Group]

	mu      sync.Mutex
	answers map[string]answer
}

type answer struct {
	text []byte
	ok   bool
	at   time.Time
}

// askedFor is how long an answer is believed, and maxAsked bounds how many are
// kept.
const (
	askedFor = 5 * time.Second
	maxAsked = 1024
)

// get returns the answer to a question, which ask gives if it is not known.
// Two that come at once both ask.
func (a *Asked) get(question string, ask func() ([]byte, bool)) ([]byte, bool) {
	a.mu.Lock()
	got, ok := a.answers[question]
	a.mu.Unlock()
	if ok && time.Since(got.at) < askedFor {
		return got.text, got.ok
	}
	text, ok := ask()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answers == nil || len(a.answers) >= maxAsked {
		a.answers = map[string]answer{}
	}
	a.answers[question] = answer{text, ok, time.Now()}
	return text, ok
}

// getentSeconds bounds one question: a directory server that is down must not
// hold up a start.
const getentSeconds = "2"

// memory is what f remembers of the files.
func (f Files) memory() *Asked {
	if f.Asked == nil {
		return new(Asked)
	}
	return f.Asked
}

// Local is f without getent(1): for the users of packages, which are in the
// files. To ask for one takes two processes.
func (f Files) Local() Users {
	f.NoGetent = true
	return f
}

// User implements Users.
func (f Files) User(name string) (User, error) {
	id, numeric := number(name)
	match := func(u user.User) bool { return u.Name == name || numeric && u.Uid == id }
	found, err := f.passwd(match)
	if err == nil && len(found) == 0 && !f.NoGetent {
		if text, ok := f.getent("passwd", name); ok {
			found, err = user.ParsePasswdFilter(bytes.NewReader(text), match)
		}
	}
	if err != nil {
		return User{}, fmt.Errorf("user %s: %w", name, err)
	}
	if len(found) == 0 {
		return User{}, fmt.Errorf("user %s: %w", name, ErrUnknown)
	}
	u := found[0]
	return User{u.Name, u.Uid, u.Gid, u.Home}, nil
}

func (f Files) passwd(match func(user.User) bool) ([]user.User, error) {
	all, err := f.memory().users.read(cmp.Or(f.PasswdFile, "/etc/passwd"), user.ParsePasswd)
	return matching(all, match), err
}

// Group implements Users.
func (f Files) Group(name string) (Group, error) {
	id, numeric := number(name)
	match := func(g user.Group) bool { return g.Name == name || numeric && g.Gid == id }
	found, err := f.group(match)
	if err == nil && len(found) == 0 && !f.NoGetent {
		if text, ok := f.getent("group", name); ok {
			found, err = user.ParseGroupFilter(bytes.NewReader(text), match)
		}
	}
	if err != nil {
		return Group{}, fmt.Errorf("group %s: %w", name, err)
	}
	if len(found) == 0 {
		return Group{}, fmt.Errorf("group %s: %w", name, ErrUnknown)
	}
	return Group{found[0].Gid, found[0].Name}, nil
}

func (f Files) group(match func(user.Group) bool) ([]user.Group, error) {
	all, err := f.memory().groups.read(cmp.Or(f.GroupFile, "/etc/group"), user.ParseGroup)
	return matching(all, match), err
}

// Groups implements Users.
func (f Files) Groups(name string) ([]Group, error) {
	found, err := f.group(func(g user.Group) bool {
		for _, m := range g.List {
			if m == name {
				return true
			}
		}
		return false
	})
	if err != nil {
		return nil, fmt.Errorf("groups of %s: %w", name, err)
	}
	var out []Group
	for _, g := range found {
		out = append(out, Group{g.Gid, g.Name})
	}
	return out, nil
}

func (f Files) getent(db, key string) ([]byte, bool) {
	if f.Asked == nil {
		return getent(db, key)
	}
	return f.Asked.get(db+" "+key, func() ([]byte, bool) { return getent(db, key) })
}

// getent asks the name service switch in a child of its own.
func getent(db, key string) ([]byte, bool) {
	cmd := exec.Command("/usr/bin/timeout", getentSeconds, "/usr/bin/getent", "--", db, key)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	out, err := cmd.Output()
	return out, err == nil && len(out) < 64<<10
}

// number parses a user or group number as the kernel takes it: neither
// negative nor (uid_t)-1, which means "no change".
func number(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return int(n), err == nil && n < 1<<32-1
}
