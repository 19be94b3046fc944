package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"liege/vassal"
)

// Asleep is what a later Emperor must know of a vassal that sleeps: nothing of it
// runs, and systemd keeps its listeners.
type Asleep struct {
	V         int         `json:"v"`
	Name      vassal.Name `json:"name"`
	File      string      `json:"file"`
	Listeners []Listener  `json:"listeners"` // FD is not used

	Secure json.RawMessage `json:"secure,omitempty"` // as a Record's
}

func (d *Dir) asleepFile(name vassal.Name) string {
	return filepath.Join(d.Vassal(name), "asleep.json")
}

// WriteAsleep writes a, atomically. It fills in V.
func (d *Dir) WriteAsleep(a Asleep) error {
	a.V = Version
	return d.save(a.Name, d.asleepFile(a.Name), a)
}

// ReadAsleep returns what WriteAsleep wrote for the vassal name; without
// listeners if there is nothing.
func (d *Dir) ReadAsleep(name vassal.Name) (Asleep, error) {
	var a Asleep
	text, err := load(d.asleepFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err == nil {
		err = parse(text, &a)
	}
	if err == nil && (a.V != Version || a.Name != name) {
		err = fmt.Errorf("is about %q, version %d", a.Name, a.V)
	}
	for _, l := range a.Listeners {
		if err == nil && (l.Address == "" || l.Cookie == 0) {
			err = fmt.Errorf("listener %q, cookie %d: not plausible", l.Address, l.Cookie)
		}
	}
	if err != nil {
		return Asleep{}, fmt.Errorf("%s: %w", d.asleepFile(name), err)
	}
	return a, nil
}

// RemoveAsleep removes what WriteAsleep wrote; there need be nothing.
func (d *Dir) RemoveAsleep(name vassal.Name) error {
	if err := os.Remove(d.asleepFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
