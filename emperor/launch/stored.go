package launch

import (
	"errors"

	"liege/emperor/fdstore"
	"liege/emperor/listen"
	"liege/emperor/record"
	"liege/vassal"
)

// While a vassal sleeps nobody holds its listeners but the Emperor. systemd keeps
// copies (package fdstore), and asleep.json says what they are, so that a
// connection waits while no Emperor runs: one that was killed, or is restarted.

// store has the listeners kept. That they cannot be is no reason not to sleep.
func (l *launcher) store(file string) {
	kept, err := l.sockets.Store()
	if len(kept) > 0 {
		a := record.Asleep{Name: l.name, File: file, Secure: l.served.Load().secure()}
		for _, b := range kept {
			a.Listeners = append(a.Listeners, recorded(b))
		}
		err = errors.Join(err, l.host.Records.WriteAsleep(a))
	}
	switch {
	case errors.Is(err, fdstore.ErrFull):
		l.host.full.Do(func() {
			l.host.Log.Warn("the listeners of some vassals that sleep are not there while the Emperor is restarted", "vassal", l.name, "err", err,
				"hint", "systemctl edit liege: FileDescriptorStoreMax= and Environment=FDSTORE= of that number")
		})
	case err != nil:
		l.host.Log.Warn("listeners are not there while the Emperor is restarted", "vassal", l.name, "err", err)
	}
}

// recorded is what a later Emperor knows a socket by.
func recorded(b listen.Bound) record.Listener {
	return record.Listener{Address: b.Named, Bound: b.Address, Protocol: b.Protocol, Inode: b.Inode, Cookie: b.Cookie, Line: b.From.Line}
}

// takeStored takes over the listeners that systemd kept.
func (l *launcher) takeStored() {
	a, err := l.host.Records.ReadAsleep(l.name)
	if err != nil {
		l.host.Log.Warn("a record that cannot be believed", "vassal", l.name, "err", err)
	}
	l.recall(a.Secure)
	for _, k := range a.Listeners {
		name := listen.StoredName(k.Cookie)
		f := l.host.Given.Take(name)
		if f == nil {
			continue // systemd found it broken, or had no room
		}
		if err = checkSocket(int(f.Fd()), k); err == nil {
			err = l.sockets.Adopt(vassal.Listener{Address: k.Address, Protocol: k.Protocol, At: vassal.Origin{File: a.File, Line: k.Line}}, k.Bound, a.File, f)
		}
		if err != nil {
			f.Close()
			err = errors.Join(err, l.host.Sockets.Store.Remove(name))
			l.host.Log.Warn("a listener that systemd kept cannot be used", "vassal", l.name, "listen", k.Bound, "err", err)
		}
	}
}

// asleep reports whether systemd kept a listener of the vassal name. What is
// known of it is removed if not.
func (h *Host) asleep(name vassal.Name, given map[string]bool) (bool, error) {
	a, err := h.Records.ReadAsleep(name)
	kept := false
	for _, k := range a.Listeners {
		if stored := listen.StoredName(k.Cookie); given[stored] {
			kept = true
			delete(given, stored)
		}
	}
	if kept {
		return true, nil
	}
	return false, errors.Join(err, h.Records.RemoveAsleep(name))
}

// discard closes what systemd kept and no record knows.
func (h *Host) discard(given map[string]bool) error {
	var errs []error
	for name := range given {
		if f := h.Given.Take(name); f != nil {
			f.Close()
		}
		errs = append(errs, h.Sockets.Store.Remove(name))
	}
	return errors.Join(errs...)
}
