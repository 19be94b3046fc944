// Package certs reads the certificates and keys that a vassal's file names, as
// whoever may read them, and notices when they have changed. What is in them
// it does not look at: that is the core's, which runs as the tenant.
//
//	files, problems := certs.Read(from, app)   // from: Root, Caller, or User
//	w := certs.NewWatch(look, app, files)
//	if w.Changed() { files, problems = certs.Read(from, app) … }
package certs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"liege/emperor/asuser"
	"liege/emperor/dirmon"
	"liege/vassal"
	"liege/vassal/regular"
)

// From is as whom files are read.
type From interface {
	// Read returns the bytes and the mode of a regular file of at most
	// vassal.MaxCertFile bytes.
	Read(path string) ([]byte, fs.FileMode, error)
	// List returns at most vassal.MaxCertNames names of a directory.
	List(dir string) ([]string, error)
}

// Root reads what an operator's file names (CONTRACT 1).
type Root struct{}

// Read implements From, and so do the methods below.
func (Root) Read(p string) ([]byte, fs.FileMode, error) {
	return dirmon.ReadSafe(p, vassal.MaxCertFile)
}
func (Root) List(dir string) ([]string, error) { return dirmon.ListSafe(dir, vassal.MaxCertNames) }

// User reads what a tenant's file names, with the tenant's rights.
type User struct{ Session *asuser.Session }

func (u User) Read(p string) ([]byte, fs.FileMode, error) {
	b, fi, err := u.Session.ReadFile(p, vassal.MaxCertFile)
	if err != nil {
		return nil, 0, plain(err)
	}
	return b, fi.Mode(), nil
}

func (u User) List(dir string) ([]string, error) {
	if strings.ContainsAny(dir, `*?[\`) {
		return nil, errors.New("a path with *, ?, [ or a backslash is not listed")
	}
	found, err := u.Session.Glob(dir + "/*")
	if err != nil {
		return nil, plain(err)
	}
	for i := range found {
		found[i] = path.Base(found[i])
	}
	return found, nil
}

// Caller reads what this process's user may read: liege serve.
type Caller struct{}

func (Caller) Read(p string) ([]byte, fs.FileMode, error) {
	f, err := regular.Open(p)
	if err != nil {
		return nil, 0, plain(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, 0, plain(err)
	}
	b, err := io.ReadAll(io.LimitReader(f, vassal.MaxCertFile+1))
	switch {
	case err != nil:
		return nil, 0, plain(err)
	case len(b) > vassal.MaxCertFile:
		return nil, 0, fmt.Errorf("has more than %d bytes", vassal.MaxCertFile)
	}
	return b, fi.Mode(), nil
}

func (Caller) List(dir string) ([]string, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	names, err := f.Readdirnames(vassal.MaxCertNames)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, plain(err)
	}
	slices.Sort(names)
	return names, nil
}

// plain takes the path off an error: it is said beside it.
func plain(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// Read reads all that app's listeners and server names need. A file that a
// line names and that cannot be read is an Error with that line; one of
// sni-dir a Warning, and is there without bytes: that NAME is served with a certificate
// of its own, and that its clients are to be asked for theirs, is not to be forgotten;
// and it is watched.
// Without TLS there is nothing.
func Read(from From, app *vassal.App) (vassal.CertFiles, vassal.Problems) {
	r := reader{from: from, out: vassal.CertFiles{}}
	if !app.SpeaksTLS() {
		return nil, nil
	}
	for _, p := range app.KeyPairs() {
		for _, file := range p.Files() {
			r.read(file, p.OptionKey, p.At, vassal.Error, file == p.Key)
		}
	}
	if app.TLS != nil && app.TLS.Dir != "" {
		r.directory(app.TLS)
	}
	return r.out, r.problems
}

type reader struct {
	from     From
	out      vassal.CertFiles
	size     int
	problems vassal.Problems
}

func (r *reader) read(file, key string, at vassal.Origin, worst vassal.Severity, secret bool) {
	if _, done := r.out[file]; done {
		return
	}
	b, mode, err := r.from.Read(file)
	if err == nil && r.size+len(b) > vassal.MaxCertFiles {
		err = fmt.Errorf("all certificates of a vassal together may have %d bytes", vassal.MaxCertFiles)
	}
	if err != nil {
		r.report(worst, key, at, file, err.Error(), "ls -lL "+file)
		return
	}
	if secret && mode&0o004 != 0 {
		r.report(vassal.Warning, key, at, file, fmt.Sprintf("mode %04o: everybody on this host can read the private key", mode.Perm()), "chmod o-r "+file)
	}
	if b == nil {
		b = []byte{} // an empty file
	}
	r.out[file], r.size = b, r.size+len(b)
}

func (r *reader) report(sev vassal.Severity, key string, at vassal.Origin, file, msg, hint string) {
	r.problems = append(r.problems, vassal.Problem{Severity: sev, Code: vassal.CodeBadCertificate, File: at.File, Line: at.Line, Key: key,
		Step: "certificates", Message: file + ": " + msg, Hint: hint})
}

// directory reads the certificates in sni-dir that have a key.
func (r *reader) directory(t *vassal.TLS) {
	names, err := r.from.List(t.Dir)
	if err != nil {
		r.report(vassal.Error, "sni-dir", t.DirAt, t.Dir, err.Error(), "ls -ld "+t.Dir)
		return
	}
	for _, n := range names {
		stem, ok := strings.CutSuffix(n, ".crt")
		if !ok || !slices.Contains(names, stem+".key") {
			continue
		}
		for _, end := range []string{".crt", ".key", ".ca"} {
			if !slices.Contains(names, stem+end) {
				continue
			}
			file := path.Join(t.Dir, stem+end)
			if r.read(file, "sni-dir", t.DirAt, vassal.Warning, end == ".key"); r.out[file] == nil {
				r.out[file] = nil
			}
		}
	}
}

// Look returns what tells one state of each path from another, empty for what
// is missing or denied: asuser.Looks, for a user.
type Look func(paths []string) []string

// Watch notices changes of files that were read.
type Watch struct {
	look  Look
	paths []string
	taken []string // when they were last read
	seen  []string // when they were last looked at
}

// NewWatch watches the files of app. Make it before they are read: what changes
// meanwhile is then noticed.
func NewWatch(look Look, app *vassal.App) *Watch {
	w := &Watch{look: look}
	w.follow(app, nil)
	w.seen = w.look(w.paths)
	w.taken = w.seen
	return w
}

// follow sets the paths: those that lines name, sni-dir itself, and what was
// found in it.
func (w *Watch) follow(app *vassal.App, files vassal.CertFiles) {
	paths := map[string]bool{}
	for _, p := range app.KeyPairs() {
		for _, f := range p.Files() {
			paths[f] = true
		}
	}
	if app.TLS != nil && app.TLS.Dir != "" {
		paths[app.TLS.Dir] = true
	}
	for f := range files {
		paths[f] = true
	}
	w.paths = w.paths[:0]
	for p := range paths {
		w.paths = append(w.paths, p)
	}
	slices.SortFunc(w.paths, cmp.Compare)
}

// Changed looks once, and reports whether something has changed since Taken and
// is as it was when it was looked at before: certificate and key are replaced
// one after the other.
func (w *Watch) Changed() bool {
	now := w.look(w.paths)
	calm := slices.Equal(now, w.seen)
	w.seen = now
	return calm && !slices.Equal(now, w.taken)
}

// Taken says that files were read after the last look.
func (w *Watch) Taken(app *vassal.App, files vassal.CertFiles) {
	before := map[string]string{}
	for i, p := range w.paths {
		before[p] = w.seen[i]
	}
	w.follow(app, files)
	now := w.look(w.paths)
	w.taken = make([]string, len(w.paths))
	for i, p := range w.paths {
		if was, ok := before[p]; ok {
			w.taken[i] = was
		} else {
			w.taken[i] = now[i] // new here, and read a moment ago
		}
	}
	w.seen = now
}
