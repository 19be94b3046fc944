package policy

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"liege/vassal"
)

// Config says which system's policy is meant.
type Config struct {
	Root string // "/", or the tree of an image that is being built
	Live bool   // the policy of Root is the one this kernel has loaded
	Note func(string)
}

// Store is the installed policy of a system: libsemanage's store with its
// modules, and the files made from it.
type Store struct {
	cfg  Config
	kind string // SELINUXTYPE: default, targeted

	// Tests end the process at a step; nil: nothing.
	at func(step string)
}

// Open finds the policy of a system.
func Open(cfg Config) (*Store, error) {
	if cfg.Note == nil {
		cfg.Note = func(string) {}
	}
	s := &Store{cfg: cfg, at: func(string) {}}
	conf := s.path("/etc/selinux/config")
	f, err := os.Open(conf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noPolicy("there is no "+conf, "")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for in := bufio.NewScanner(f); in.Scan(); {
		if v, ok := strings.CutPrefix(strings.TrimSpace(in.Text()), "SELINUXTYPE="); ok {
			s.kind = strings.TrimSpace(v)
		}
	}
	if s.kind == "" || strings.Contains(s.kind, "/") {
		return nil, noPolicy(conf+" names no SELINUXTYPE", "")
	}
	if _, err := os.Stat(s.modulesDir()); errors.Is(err, fs.ErrNotExist) {
		return nil, noPolicy("there is no "+s.modulesDir(), "")
	} else if err != nil {
		return nil, err
	}
	return s, nil
}

func noPolicy(why, hint string) error {
	if hint == "" {
		hint = "apt install selinux-policy-default, or dnf install selinux-policy-targeted"
	}
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoPolicy, Message: "no SELinux policy is installed: " + why, Hint: hint}
}

func (s *Store) path(p string) string { return filepath.Join(s.cfg.Root, p) }

func (s *Store) dir() string { return s.path("/var/lib/selinux/" + s.kind) }

func (s *Store) modulesDir() string { return filepath.Join(s.dir(), "active/modules") }

// contexts are file_contexts, by which files are labelled.
func (s *Store) contexts() string {
	return s.path("/etc/selinux/" + s.kind + "/contexts/files/file_contexts")
}

// A stored module is one of the store's.
type stored struct {
	name     string
	priority int
	dir      string
}

// modules are those in force: of each name the one with the highest priority,
// unless it is disabled.
func (s *Store) modules() ([]stored, error) {
	entries, err := os.ReadDir(s.modulesDir())
	if err != nil {
		return nil, err
	}
	best := map[string]stored{}
	for _, e := range entries {
		priority, err := strconv.Atoi(e.Name())
		if err != nil {
			continue // disabled
		}
		dir := filepath.Join(s.modulesDir(), e.Name())
		mods, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, m := range mods {
			if have, ok := best[m.Name()]; !ok || priority > have.priority {
				best[m.Name()] = stored{m.Name(), priority, filepath.Join(dir, m.Name())}
			}
		}
	}
	var all []stored
	for name, m := range best {
		if _, err := os.Lstat(filepath.Join(s.modulesDir(), "disabled", name)); err == nil {
			continue
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b stored) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// has reports whether a module is installed.
func (s *Store) has(name string) (bool, error) {
	all, err := s.modules()
	return slices.ContainsFunc(all, func(m stored) bool { return m.name == name }), err
}

// cil is the module's text.
func (m stored) cil() ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(m.dir, "cil"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoPolicy, Message: "the module " + m.name + " of the installed policy was never compiled", Hint: "semodule -B"}
	}
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(b, []byte("BZh")) { // semanage.conf: bzip-blocksize=0
		return b, nil
	}
	text, err := io.ReadAll(bzip2.NewReader(bytes.NewReader(b)))
	if err != nil {
		return nil, fmt.Errorf("%s/cil: %w", m.dir, err)
	}
	return text, nil
}

// lock keeps two of us from the same store. It waits, for a change of policy
// takes seconds.
func lock(ctx context.Context, file string) (*os.File, error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(lockTime)
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, syscall.EWOULDBLOCK):
			f.Close()
			return nil, os.NewSyscallError("flock", err)
		case time.Now().After(end):
			f.Close()
			return nil, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodePolicyBusy, Message: "another program is changing the policy (it holds " + file + ")", Hint: "try again when it is done"}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lockTime is how long to wait for the end of another change.
const lockTime = 20 * time.Second
