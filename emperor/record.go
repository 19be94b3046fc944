package emperor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"liege/emperor/control"
	"liege/vassal"
)

// record is what is kept of a vassal in the state directory, as v-NAME.json:
// what was asked of it, and the counters that never go down (CONTRACT 16).
type record struct {
	V          int         `json:"v"`
	Name       vassal.Name `json:"name"`
	File       string      `json:"file,omitempty"`  // that has the name
	Owner      int         `json:"owner,omitempty"` // uid of the last user's file that it was; 0: always the operator's
	Generation int         `json:"generation"`
	Intent     intent      `json:"intent"`
	By         string      `json:"by,omitempty"` // who stopped it; with wantSuspend: it is stopped again when that ends
	Hold       *hold       `json:"hold,omitempty"`
	Holds      int         `json:"holds,omitempty"` // holding generations so far
	Restarts   int64       `json:"restarts"`
	ColdStarts int64       `json:"cold_starts"`
	OOMKills   int64       `json:"oom_kills"`
	CPUUsec    int64       `json:"cpu_usec"`
	Requests   uint64      `json:"requests"`

	// Counted is how many of Requests are of generations that live, by their numbers:
	// who adopts one adds what it has answered since. Nil: none.
	Counted *map[int]uint64 `json:"counted,omitempty"`

	MemorySlowed  int64 `json:"memory_slowed,omitempty"`
	PidsRefused   int64 `json:"pids_refused,omitempty"`
	ThrottledUsec int64 `json:"cpu_throttled_usec,omitempty"`

	Sent     int64 `json:"sent_bytes,omitempty"` // by net = nat
	Received int64 `json:"received_bytes,omitempty"`

	LastExit *control.Exit `json:"last_exit,omitempty"`
	Kernel   kernelCounts  `json:"kernel"`
}

// locked reports whether the vassal of a user is suspended. That is the operator's
// word, and outlives the file, which the user may take away and put back. That it is
// stopped does not (CONTRACT 16).
func (r *record) locked() bool { return r.Owner != 0 && r.Intent == wantSuspend }

// kernelCounts are the kernel's counters as last read, so that only what was
// added since is added.
type kernelCounts struct {
	OOMKills int64 `json:"oom_kills"`
	CPUUsec  int64 `json:"cpu_usec"`

	MemorySlowed  int64 `json:"memory_slowed,omitempty"`
	PidsRefused   int64 `json:"pids_refused,omitempty"`
	ThrottledUsec int64 `json:"cpu_throttled_usec,omitempty"`

	Sent     int64 `json:"sent_bytes,omitempty"`
	Received int64 `json:"received_bytes,omitempty"`
}

// hold is a suspension.
type hold struct {
	control.Suspension
	Page []byte `json:"page,omitempty"`
}

const (
	recordVersion = 1
	recordPrefix  = "v-"
	recordSuffix  = ".json"
	maxRecord     = 1 << 20
)

// records keeps record files. The zero records keeps nothing.
type records struct{ dir string }

func (r records) path(n vassal.Name) string {
	return filepath.Join(r.dir, recordPrefix+string(n)+recordSuffix)
}

// Remembered reports whether something is kept of n in a state directory: its
// file was there when the Emperor ended.
func Remembered(stateDir string, n vassal.Name) bool {
	_, err := os.Lstat(records{stateDir}.path(n))
	return err == nil
}

// Kept is what a state directory holds of the vassals of an earlier Emperor, read once.
type Kept struct{ records map[vassal.Name]record }

// Keep reads stateDir. What cannot be read is left out: err says so.
func Keep(stateDir string) (k *Kept, err error) {
	k = &Kept{records: map[vassal.Name]record{}}
	list, err := os.ReadDir(stateDir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return k, err
	}
	var errs []error
	for _, e := range list {
		s, ok := strings.CutPrefix(e.Name(), recordPrefix)
		s, whole := strings.CutSuffix(s, recordSuffix)
		if !ok || !whole {
			continue
		}
		n, err := vassal.ParseName(s)
		if err != nil {
			continue
		}
		rec, err := records{stateDir}.load(n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		k.records[n] = rec
	}
	return k, errors.Join(errs...)
}

// Claims are the names that vassals had when that Emperor ended, with the paths of
// their files.
func (k *Kept) Claims() map[vassal.Name]string {
	claims := map[vassal.Name]string{}
	for n, rec := range k.records {
		if rec.File != "" {
			claims[n] = rec.File
		}
	}
	return claims
}

// take returns what is kept of n, once; not ok: nothing, or nothing any more.
func (k *Kept) take(n vassal.Name) (rec record, ok bool) {
	if k == nil {
		return rec, false
	}
	rec, ok = k.records[n]
	delete(k.records, n)
	return rec, ok
}

// loaded is what load returned.
type loaded struct {
	record record
	err    error
}

// load returns the record of n, a new one if there is none or it is damaged;
// the error says how it is damaged.
func (r records) load(n vassal.Name) (record, error) {
	fresh := record{V: recordVersion, Name: n, Intent: wantRun}
	if r.dir == "" {
		return fresh, nil
	}
	b, err := os.ReadFile(r.path(n))
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	var rec record
	if err == nil && len(b) > maxRecord {
		err = errors.New("too long")
	}
	if err == nil {
		err = json.Unmarshal(b, &rec)
	}
	switch {
	case err != nil:
	case rec.V != recordVersion || rec.Name != n:
		err = fmt.Errorf("version %d of %q", rec.V, rec.Name)
	case rec.Intent != wantRun && rec.Intent != wantStop && rec.Intent != wantSuspend,
		rec.Intent == wantSuspend && rec.Hold == nil, rec.Generation < 0, rec.Holds < 0:
		err = errors.New("makes no sense")
	}
	if err != nil {
		return fresh, fmt.Errorf("state of %s: %w", n, err)
	}
	if x := rec.LastExit; x != nil && x.Code != nil && *x.Code == vassal.UnknownCode { // as it was written once
		x.Code = nil
	}
	return rec, nil
}

// save writes rec so that a reader, or the next Emperor, finds the old one or
// the new one; if sure, also after a power cut.
func (r records) save(rec record, sure bool) error {
	if r.dir == "" {
		return nil
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	tmp := r.path(rec.Name) + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if sure || rec.Intent != wantRun { // else what was synced before would be replaced by what may be empty after a power cut
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, r.path(rec.Name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if !sure {
		return nil
	}
	d, err := os.Open(r.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (r records) remove(n vassal.Name) error {
	if r.dir == "" {
		return nil
	}
	if err := os.Remove(r.path(n)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// prune removes the records of vassals that keep does not know: their files
// went while no Emperor looked.
func (r records) prune(keep func(vassal.Name) bool) error {
	if r.dir == "" {
		return nil
	}
	list, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range list {
		s, ok := strings.CutPrefix(e.Name(), recordPrefix)
		n, ok2 := strings.CutSuffix(strings.TrimSuffix(s, ".tmp"), recordSuffix)
		if ok && ok2 && e.Type().IsRegular() && !keep(vassal.Name(n)) {
			errs = append(errs, os.Remove(filepath.Join(r.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
