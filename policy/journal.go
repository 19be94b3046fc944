package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// StateDir is where installed modules are kept, and what is being done.
const StateDir = "/var/lib/liege/policy"

// A journal says what an Install or Remove has begun. It is on disk before the
// system is changed, and gone when nothing is half done.
type journal struct {
	Op    string   `json:"op"` // install or remove
	ID    string   `json:"id"`
	Paths []string `json:"paths"` // that were, or will be, labelled
}

const (
	opInstall = "install"
	opRemove  = "remove"
)

// The files of an app's directory. The module in force is ID/webapp_ID.cil and
// .fc; the one that is being installed, in ID/new.
const (
	journalFile = "journal.json"
	newDir      = "new"
)

func (s *Store) stateDir() string { return s.path(StateDir) }

func (s *Store) appDir(id string) string { return filepath.Join(s.stateDir(), id) }

// begin writes the journal.
func (s *Store) begin(j journal) error {
	text, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.appDir(j.ID), 0o700); err != nil {
		return err
	}
	return writeFile(filepath.Join(s.appDir(j.ID), journalFile), append(text, '\n'), 0o600)
}

// end removes it.
func (s *Store) end(id string) error {
	if err := os.Remove(filepath.Join(s.appDir(id), journalFile)); err != nil {
		return err
	}
	return syncDir(s.appDir(id))
}

// begun returns what was begun and not ended, nil if nothing was.
func (s *Store) begun(id string) (*journal, error) {
	file := filepath.Join(s.appDir(id), journalFile)
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var j journal
	if err := json.Unmarshal(text, &j); err != nil || j.ID != id || !slices.Contains([]string{opInstall, opRemove}, j.Op) {
		return nil, fmt.Errorf("%s: not a journal of liege policy", file)
	}
	return &j, nil
}

// apps are the IDs that have a directory.
func (s *Store) apps() ([]string, error) {
	entries, err := os.ReadDir(s.stateDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && CheckID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

// Installed reads the module of an app as it was installed; nil: there is none.
func (s *Store) Installed(id string) (*Module, error) {
	m, err := Read(filepath.Join(s.appDir(id), ModuleName(id)+".cil"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// keep writes a module to a directory, safely.
func keep(dir string, m Module) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	cil, fc := m.Files()
	if err := writeFile(filepath.Join(dir, cil), m.CIL, 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, fc), m.FC, 0o600)
}
