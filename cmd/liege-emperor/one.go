package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"liege/emperor"
	"liege/emperor/control"
	"liege/emperor/dirmon"
	"liege/vassal"
	"liege/vassal/inifile"
)

const exitNoFile = 66

// one runs the vassal of one file in the foreground, as "liege serve" does for
// root when the file asks for isolation: the same code as for many, with a run
// directory of its own that is removed at the end. It ends with the vassal's
// file, a signal, or when the vassal cannot start.
func one(ctx context.Context, f flags) (err error) {
	file, section := inifile.SplitSection(f.one)
	path, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return &exitError{exitNoFile, "", err}
	}
	cfg, cleanup, err := oneConfig(&f, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cleanup()) }()
	log := newLog(cfg.LogFormat)
	m, err := dirmon.New(dirmon.Options{Sources: []string{filepath.Dir(path)}, Touch: true, Log: log})
	if err != nil {
		return err
	}
	monitor := func(map[vassal.Name]string) (emperor.Monitor, error) {
		return &only{Monitor: m, path: path, section: section}, nil
	}
	r, err := newRealm(f, cfg, log, monitor, &terminal{out: os.Stdout, one: true})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		if err := r.firstStart(ctx, path); err != nil {
			stop(err)
		}
	}()
	err = r.run(ctx)
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	stop(nil)
	<-watched
	return errors.Join(err, r.close())
}

// oneConfig is the configuration for the file at path, all in a temporary directory:
// that of the host's Emperor but for its places.
func oneConfig(f *flags, path string) (cfg inifile.EmperorConfig, cleanup func() error, err error) {
	dir, err := os.MkdirTemp("/run", "liege-one-")
	if err != nil {
		return cfg, nil, err
	}
	cleanup = func() error { return os.RemoveAll(dir) }
	if cfg, _, err = load(*f); err == nil {
		f.apart = apartFrom(cfg, path)
		f.runDir, f.logDir, f.stateDir = dir, filepath.Join(dir, "log"), filepath.Join(dir, "state")
		cfg, _, err = load(*f)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		return cfg, nil, errors.Join(err, cleanup())
	}
	return cfg, cleanup, nil
}

// firstStart waits until the vassal serves; an error says why it does not.
func (r *realm) firstStart(ctx context.Context, path string) error {
	select {
	case <-ctx.Done():
		return nil
	case <-r.emperor.Scanned():
	}
	began := time.Now()
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		v, ok := r.find(ctx, path)
		switch {
		case !ok && time.Since(began) > unlisted:
			tick.Stop()
			return &exitError{exitNoFile, "a vassal's file is NAME.ini", fmt.Errorf("%s is not a vassal's file", path)}
		case v.State == control.Running:
			tick.Stop()
			for _, l := range v.Listen {
				r.log.Info("serves", "vassal", v.Name, "listen", l)
			}
			return nil
		case v.State == control.Sleeping:
			tick.Stop()
			r.log.Info("sleeps until somebody connects", "vassal", v.Name, "listen", v.Listen)
			return nil
		case v.State == control.Failed, v.State == control.Backoff:
			tick.Stop()
			return failure(v)
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case <-tick.C:
		}
	}
}

// unlisted is how long a file that was just written may not be listed.
const unlisted = 3 * time.Second

func (r *realm) find(ctx context.Context, path string) (control.Vassal, bool) {
	vs := r.emperor.Vassals(ctx)
	i := slices.IndexFunc(vs, func(v control.Vassal) bool { return v.File == path })
	if i < 0 {
		return control.Vassal{}, false
	}
	return vs[i], true
}

// failure is every problem of v, with its hint, as one error.
func failure(v control.Vassal) error {
	e := &exitError{code: exitFailed, err: fmt.Errorf("%s is %s", v.Name, v.State)}
	var errs []error
	for _, p := range v.Problems {
		if p.Severity == vassal.Error {
			errs = append(errs, &p)
			e.hint = p.Hint
		}
	}
	if len(errs) > 0 {
		e.err = errors.Join(errs...)
	}
	if v.State == control.Failed {
		e.code = exitConfig
	}
	return e
}

// only is a Monitor that sees one file of a directory, and a section of it.
type only struct {
	emperor.Monitor
	path, section string
}

// Watch implements emperor.Monitor.
func (o *only) Watch(ctx context.Context, out chan<- emperor.Snapshot) error {
	all := make(chan emperor.Snapshot)
	failed := make(chan error, 1)
	go func() { failed <- o.Monitor.Watch(ctx, all) }()
	for {
		select {
		case err := <-failed:
			return err
		case s := <-all:
			s.Files = slices.DeleteFunc(slices.Clone(s.Files), func(f emperor.File) bool { return f.Path != o.path })
			for i := range s.Files {
				s.Files[i].Section = o.section
			}
			s.Skipped = slices.DeleteFunc(slices.Clone(s.Skipped), func(p vassal.Problem) bool { return p.File != o.path })
			select {
			case out <- s:
			case <-ctx.Done():
			}
		}
	}
}
