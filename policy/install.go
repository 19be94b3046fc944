package policy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"liege/vassal"
)

// Install loads a module, makes its file contexts known and labels its files;
// for the base module it only loads. The base module is installed, or brought
// up to date, with it. When Install fails, all of this is undone: the module in
// force before, if there was one, is in force again, and the files have the
// type that the file contexts give them without the new one. A label that
// somebody gave a file by hand (chcon) is not remembered.
func (s *Store) Install(ctx context.Context, m Module) (err error) {
	unlock, err := s.start(ctx, "semodule", "secilc")
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.Check(ctx, m); err != nil {
		return err
	}
	if err := s.installBase(ctx, m.Name == BaseName); err != nil || m.Name == BaseName {
		return err
	}
	id := m.ID()
	labels, err := m.labels()
	if err != nil {
		return err
	}
	before, err := s.Installed(id)
	if err != nil {
		return err
	}
	for _, l := range labels {
		if l.wide() {
			s.cfg.Note(fmt.Sprintf("not labelled now: %s; restorecon -R %s/ does it", l.regex, l.stem()))
		}
	}
	j := journal{Op: opInstall, ID: id, Paths: stemsOf(labels)}
	if before != nil {
		old, err := before.labels()
		if err != nil {
			return err
		}
		j.Paths = outermost(append(j.Paths, stemsOf(old)...))
	}
	s.at("journal")
	if err := s.begin(j); err != nil {
		if before == nil {
			err = errors.Join(err, s.forget(id))
		}
		return err
	}
	if err := s.change(ctx, m, labels, j); err != nil {
		return s.undone(ctx, j, err)
	}
	return nil
}

// change is Install between journal and end.
func (s *Store) change(ctx context.Context, m Module, labels []label, j journal) error {
	dir := s.appDir(j.ID)
	s.at("keep")
	if err := keep(filepath.Join(dir, newDir), m); err != nil {
		return err
	}
	cil, fc := m.Files()
	s.at("module")
	s.cfg.Note("load module " + m.Name)
	if err := s.semodule(ctx, "-i", filepath.Join(dir, newDir, cil)); err != nil {
		return err
	}
	s.at("contexts")
	if err := s.setContexts(ctx, j.ID, labels); err != nil {
		return err
	}
	s.at("relabel")
	if err := s.relabel(ctx, j.Paths); err != nil {
		return err
	}
	s.at("commit")
	// The .fc first: undone between the two, the module that is put back has
	// more file contexts than it had, never fewer types than they name.
	for _, f := range []string{fc, cil} {
		if err := os.Rename(filepath.Join(dir, newDir, f), filepath.Join(dir, f)); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(filepath.Join(dir, newDir)); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	s.at("end")
	return s.end(j.ID)
}

// installBase installs the base module if it is missing or another than this
// one: a step of its own, which a failure later does not undo. always: label
// its files even if it is there.
func (s *Store) installBase(ctx context.Context, always bool) error {
	base := Base()
	have, err := s.same(base)
	if err != nil || have && !always {
		return err
	}
	if !have {
		if err := s.loadBase(ctx, base); err != nil {
			return err
		}
	}
	return s.relabel(ctx, basePaths())
}

func (s *Store) loadBase(ctx context.Context, base Module) error {
	dir, err := os.MkdirTemp("", "liege-policy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, BaseName+".cil")
	if err := os.WriteFile(file, base.CIL, 0o600); err != nil {
		return err
	}
	s.cfg.Note("load module " + BaseName)
	return s.semodule(ctx, "-i", file)
}

// same reports whether a module is installed with this text.
func (s *Store) same(m Module) (bool, error) {
	installed, err := s.modules()
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(installed, func(x stored) bool { return x.name == m.Name })
	if i < 0 {
		return false, nil
	}
	text, err := installed[i].cil()
	return string(text) == string(m.CIL), err
}

// Remove takes the module of an app away: its file contexts, the labels of its
// files, the module. One that fails or is interrupted is finished by the next.
func (s *Store) Remove(ctx context.Context, id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	unlock, err := s.start(ctx, "semodule")
	if err != nil {
		return err
	}
	defer unlock()
	have, err := s.has(ModuleName(id))
	if err != nil {
		return err
	}
	kept, err := s.Installed(id)
	if err != nil {
		return err
	}
	if !have && kept == nil {
		return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoModule, Message: ModuleName(id) + ": no such module is installed", Hint: "semodule -l lists them"}
	}
	if err := s.inUse(id); err != nil {
		return err
	}
	j := journal{Op: opRemove, ID: id}
	if j.Paths, err = s.stems(id); err != nil {
		return err
	}
	s.at("journal")
	if err := s.begin(j); err != nil {
		return err
	}
	return s.takeAway(ctx, j)
}

// takeAway can be done again from any point. Files lose the labels before the
// policy loses the types: no file is ever without a valid one.
func (s *Store) takeAway(ctx context.Context, j journal) error {
	s.at("contexts")
	if err := s.setContexts(ctx, j.ID, nil); err != nil {
		return err
	}
	s.at("relabel")
	if err := s.relabel(ctx, j.Paths); err != nil {
		return err
	}
	have, err := s.has(ModuleName(j.ID))
	if err != nil {
		return err
	}
	s.at("module")
	if have {
		s.cfg.Note("unload module " + ModuleName(j.ID))
		if err := s.semodule(ctx, "-r", ModuleName(j.ID)); err != nil {
			return err
		}
	}
	s.at("end")
	return s.forget(j.ID)
}

// forget removes an app's directory, the journal last.
func (s *Store) forget(id string) error {
	dir := s.appDir(id)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.Name() != journalFile {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// start locks, and finishes or undoes what others left half done.
func (s *Store) start(ctx context.Context, tools ...string) (unlock func(), err error) {
	label := "setfiles"
	if s.cfg.Live {
		label = "restorecon"
	}
	if err := need(append(tools, label)...); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.stateDir(), 0o700); err != nil {
		return nil, err
	}
	l, err := lock(ctx, filepath.Join(s.stateDir(), "lock"))
	if err != nil {
		return nil, err
	}
	unlock = func() { l.Close() }
	ids, err := s.apps()
	for _, id := range ids {
		if err == nil {
			err = s.recover(ctx, id)
		}
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// recover undoes an Install and finishes a Remove that did not end.
func (s *Store) recover(ctx context.Context, id string) error {
	j, err := s.begun(id)
	if err != nil || j == nil {
		return err
	}
	if j.Op == opRemove {
		s.cfg.Note("finish the removal of " + id)
		return s.takeAway(ctx, *j)
	}
	s.cfg.Note("undo the installation of " + id)
	return s.undo(ctx, *j)
}

// undone is the error of an Install that failed with err.
func (s *Store) undone(ctx context.Context, j journal, err error) error {
	// Also when the caller gave up: half of it must not stay.
	undo := s.undo(context.WithoutCancel(ctx), j)
	if undo == nil {
		return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotInstalled, Message: fmt.Sprintf("install %s: %v", j.ID, err), Hint: "everything is as it was before"}
	}
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotUndone,
		Message: fmt.Sprintf("install %s: %v; and this could not be undone: %v", j.ID, err, undo),
		Hint:    "liege policy remove " + j.ID + ", when the cause is gone, undoes the rest"}
}

// undo puts back what was in force before an Install. It can be done again from
// any point.
func (s *Store) undo(ctx context.Context, j journal) error {
	before, err := s.Installed(j.ID)
	if err != nil {
		return err
	}
	if before == nil {
		return s.takeAway(ctx, j)
	}
	labels, err := before.labels()
	if err != nil {
		return err
	}
	// The types of both modules are there until the files have the old ones.
	if err := s.setContexts(ctx, j.ID, labels); err != nil {
		return err
	}
	if have, err := s.same(*before); err != nil {
		return err
	} else if !have {
		if err := s.semodule(ctx, "-i", before.CILFile); err != nil {
			return err
		}
	}
	if err := s.relabel(ctx, j.Paths); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(s.appDir(j.ID), newDir)); err != nil {
		return err
	}
	return s.end(j.ID)
}

// inUse is an error while processes run in the app's domain: they would lose
// every right at once.
func (s *Store) inUse(id string) error {
	if !s.cfg.Live {
		return nil
	}
	procs, err := filepath.Glob("/proc/[0-9]*/attr/current")
	if err != nil {
		return err
	}
	var pids []string
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err != nil {
			continue // it just ended
		}
		if f := strings.Split(string(b), ":"); len(f) > 2 && f[2] == Domain(id) {
			pids = append(pids, strings.Split(p, "/")[2])
		}
	}
	if len(pids) == 0 {
		return nil
	}
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeModuleInUse, Message: fmt.Sprintf("remove %s: processes run as %s: %s", id, Domain(id), strings.Join(pids, " ")),
		Hint: "liege stop its vassals, or take the context out of their files"}
}
