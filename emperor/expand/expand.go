// Package expand makes of a vassal's file what a start needs: the text is
// expanded, decoded and resolved (inifile, resolve), by root for an operator's
// file, and by a child with the owner's ids for a tenant's (CONTRACT 10,
// KERNEL 26).
//
//	x := expand.New(settings)
//	r := x.Expand(ctx, file)     // any number at the same time
//	x.Set(newSettings)           // emperor.ini has changed
//
// It changes nothing on the host.
package expand

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"liege/emperor"
	"liege/emperor/asuser"
	"liege/emperor/resolve"
	"liege/vassal"
	"liege/vassal/inifile"
)

// Settings are what the operator says about every vassal.
type Settings struct {
	// Prepare is used as it is, but for INI and Host.FS, which are chosen by
	// whose the file is; Prepare.INI is that of operator's files.
	Prepare  resolve.Settings
	Ceilings vassal.Ceilings
}

// Expanded is a file expanded, decoded and resolved.
type Expanded struct {
	Config   vassal.Config
	Result   *resolve.Result // nil: the text has an Error
	Digest   vassal.Digest
	Problems vassal.Problems
	// Changed reports whether what was read besides the file itself differs
	// now; nil: nothing was. It is not for several goroutines at once.
	Changed func(context.Context) bool
	// Ceilings bound what limits may be raised to while two generations live.
	Ceilings vassal.Ceilings
}

// Expander expands files.
type Expander struct {
	mu  sync.Mutex
	set Settings
}

// New returns an Expander.
func New(s Settings) *Expander { return &Expander{set: s} }

// Set replaces the settings of every later Expand.
func (x *Expander) Set(s Settings) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.set = s
}

// Expand expands f.
func (x *Expander) Expand(ctx context.Context, f emperor.File) Expanded {
	x.mu.Lock()
	set := x.set
	x.mu.Unlock()
	s, done, err := set.Of(ctx, f.Path, f.Trust)
	if err != nil {
		return unread(f, err)
	}
	src := source(f)
	p := resolve.Prepare(ctx, f.Name, src, s)
	if err := done(); err != nil { // what it did not answer was taken for "not there"
		return unread(f, err)
	}
	out := Expanded{Config: p.Config, Result: p.Result, Digest: p.Digest, Problems: p.Problems, Ceilings: set.Ceilings}
	if len(p.Queries) > 0 {
		out.Changed = newWatch(set, f, p.Queries, p.Digest).changed
	}
	return out
}

func source(f emperor.File) inifile.Source {
	return inifile.Source{Path: f.Path, Section: f.Section, Text: f.Text, Cwd: filepath.Dir(f.Path), Inode: f.Inode, Trust: f.Trust}
}

// unread is what becomes of f where nobody could be asked about it.
func unread(f emperor.File, err error) Expanded {
	p := vassal.Problem{Severity: vassal.Error, Code: vassal.CodeUnreadable, File: f.Path, Step: "read", Message: err.Error()}
	return Expanded{Config: vassal.Config{Name: f.Name, File: f.Path}, Problems: vassal.Problems{p}}
}

// digest reads f and all that it reads anew; the zero Digest when f cannot be
// read. An error says that nobody could be asked.
func (set Settings) digest(ctx context.Context, f emperor.File) (vassal.Digest, error) {
	s, done, err := set.Of(ctx, f.Path, f.Trust)
	if err != nil {
		return vassal.Digest{}, err
	}
	file, _ := inifile.Read(source(f), s.INI, s.Read)
	if err := done(); err != nil || file == nil {
		return vassal.Digest{}, err
	}
	return file.Digest, nil
}

// Of returns the settings for the file at path: who answers what it asks, for a
// user's file a child with that user's ids. done ends it, and returns an error if
// that one stopped answering meanwhile.
func (set Settings) Of(ctx context.Context, path string, trust vassal.Trust) (s resolve.Settings, done func() error, err error) {
	s = set.Prepare
	if trust.Operator {
		s.Host.FS = resolve.OS{}
		return s, func() error { return nil }, nil
	}
	w, name, err := Owner(s.Host.Users, trust.UID, s.Host.DenyGroups)
	if err != nil {
		return s, nil, err
	}
	session, err := asuser.Start(ctx, w)
	if err != nil {
		return s, nil, err
	}
	s.Read.Operator = s.INI
	dir := filepath.Dir(path)
	s.INI = &tenantHost{Host: s.INI, part: session.Below(dir), who: w, name: name, dir: dir}
	s.Host.Sys, s.Host.FS = s.Host.FS, tenantFS{session}
	return s, func() error {
		session.Close()
		return session.Err()
	}, nil
}

// Owner is the user that a tenant's file is read as: the file's owner with the
// groups of the user database, never the file's (KERNEL 4).
func Owner(users resolve.Users, uid int, deny []string) (w asuser.Who, name string, err error) {
	if deny == nil {
		deny = resolve.DefaultDenyGroups
	}
	u, err := users.User(strconv.Itoa(uid))
	if err != nil {
		return w, "", fmt.Errorf("the file belongs to uid %d: %w", uid, err)
	}
	w = asuser.Who{UID: uid, GID: u.GID, Groups: []int{}}
	groups, err := users.Groups(u.Name)
	if err != nil {
		return w, "", fmt.Errorf("groups of %s: %w", u.Name, err)
	}
	for _, g := range groups {
		if !slices.Contains(deny, g.Name) {
			w.Groups = append(w.Groups, g.GID)
		}
	}
	return w, u.Name, nil
}
