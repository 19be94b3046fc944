package resolve

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"liege/vassal"
)

// FirstAutoUID is the default of [emperor] auto-uid: above every range that
// useradd, systemd (DynamicUser, containers) or subordinate ids hand out.
const FirstAutoUID = 1_900_000_000

// AutoUIDs allots a uid to each vassal name that asks for one (uid = auto) and
// remembers it in a file: a uid is never given to a second name, because files
// of the first may still exist.
type AutoUIDs struct {
	path        string
	first, last int

	mu    sync.Mutex
	names map[vassal.Name]int // nil: not read yet
}

// NewAutoUIDs keeps the allotments in file, from first on.
func NewAutoUIDs(file string, first int) *AutoUIDs {
	if first == 0 {
		first = FirstAutoUID
	}
	return &AutoUIDs{path: file, first: first, last: 1<<32 - 3}
}

// UID returns name's uid; the file is written, and synced, before a new one is
// returned. A file that cannot be read is an error: allotting anew could give
// one tenant's files to another.
func (a *AutoUIDs) UID(name vassal.Name) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.load(); err != nil {
		return 0, err
	}
	if uid, ok := a.names[name]; ok {
		return uid, nil
	}
	next, err := a.next()
	if err != nil {
		return 0, err
	}
	a.names[name] = next
	if err := a.save(); err != nil {
		delete(a.names, name)
		return 0, err
	}
	return next, nil
}

// next is a number that is as unlikely as can be to have been somebody's.
func (a *AutoUIDs) next() (int, error) {
	used := map[int]bool{}
	next := a.first
	for _, n := range a.names {
		used[n] = true
		next = max(next, n+1)
	}
	if next <= a.last {
		return next, nil
	}
	for n := a.first; n <= a.last; n++ {
		if !used[n] {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s: every number from %d to %d is allotted", a.path, a.first, a.last)
}

// Owner returns the name that has the number.
func (a *AutoUIDs) Owner(number int) (vassal.Name, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.load() != nil {
		return "", false
	}
	for name, n := range a.names {
		if n == number {
			return name, true
		}
	}
	return "", false
}

// Forget lets the numbers of names go for which lives says false.
func (a *AutoUIDs) Forget(lives func(vassal.Name) bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.load(); err != nil {
		return err
	}
	before := len(a.names)
	maps.DeleteFunc(a.names, func(n vassal.Name, _ int) bool { return !lives(n) })
	if len(a.names) == before {
		return nil
	}
	return a.save()
}

func (a *AutoUIDs) load() error {
	if a.names != nil {
		return nil
	}
	text, err := os.ReadFile(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		a.names = map[vassal.Name]int{}
		return nil
	}
	if err != nil {
		return err
	}
	names := map[vassal.Name]int{}
	if err := json.Unmarshal(text, &names); err != nil {
		return fmt.Errorf("%s: who has which uid is not readable: %w", a.path, err)
	}
	a.names = names
	return nil
}

func (a *AutoUIDs) save() error {
	text, err := json.MarshalIndent(a.names, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(a.path), ".auto-uid")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), a.path)
}
