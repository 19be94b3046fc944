package policy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The file contexts of an app are local ones, as "semanage fcontext -a" makes
// them, and not part of its module: those of a module lose against the ones
// that the policy has for everything below /home. They are known by their
// types, which are the app's alone.

// local are the two places of the local file contexts: in the store, from where
// every later change of policy takes them, and where they are read.
func (s *Store) local() []string {
	return []string{filepath.Join(s.dir(), "active/file_contexts.local"), s.contexts() + ".local"}
}

// setContexts replaces the local file contexts of an app by labels; none: removes them.
func (s *Store) setContexts(ctx context.Context, id string, labels []label) error {
	// libsemanage's own lock: semanage and semodule wait.
	l, err := lock(ctx, filepath.Join(s.dir(), "semanage.trans.LOCK"))
	if err != nil {
		return err
	}
	defer l.Close()
	for _, file := range s.local() {
		if err := editFile(file, id, labels); err != nil {
			return err
		}
	}
	return nil
}

// editFile edits one of the two; an empty one goes, as it came.
func editFile(file, id string, labels []label) error {
	mode := fs.FileMode(0o644)
	if st, err := os.Stat(file); err == nil {
		mode = st.Mode().Perm()
	}
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	text := editContexts(old, id, labels)
	if bytes.Equal(text, old) {
		return nil
	}
	// What was compiled of the old text would still count: it is compared by the
	// second.
	if err := os.Remove(file + ".bin"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(text) == 0 {
		return errors.Join(os.Remove(file), syncDir(filepath.Dir(file)))
	}
	return writeFile(file, text, mode)
}

// editContexts takes the lines of an app out and adds labels. Of two patterns
// that match, the last one counts: the deeper path comes later.
func editContexts(old []byte, id string, labels []label) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(old) {
		if !contextOf(id, string(line)) {
			out.Write(bytes.TrimSuffix(line, []byte("\n")))
			out.WriteByte('\n')
		}
	}
	sorted := slices.Clone(labels)
	slices.SortStableFunc(sorted, func(a, b label) int {
		return cmp.Compare(strings.Count(a.stem(), "/"), strings.Count(b.stem(), "/"))
	})
	for _, l := range sorted {
		kind := ""
		if l.kind != "" {
			kind = l.kind + "    "
		}
		fmt.Fprintf(&out, "%s    %s%s\n", l.regex, kind, l.context)
	}
	return out.Bytes()
}

// contextOf reports whether a line labels files with a type of the app.
func contextOf(id, line string) bool {
	f := strings.Fields(line)
	if len(f) < 2 || strings.HasPrefix(f[0], "#") {
		return false
	}
	c := strings.SplitN(f[len(f)-1], ":", 4)
	if len(c) < 3 {
		return false
	}
	for _, t := range taken {
		if c[2] == ModuleName(id)+"_"+t+"_t" {
			return true
		}
	}
	return false
}

// stems are the paths that the local file contexts of an app are about.
func (s *Store) stems(id string) ([]string, error) {
	var mine bytes.Buffer
	for _, file := range s.local() {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for line := range bytes.Lines(text) {
			if contextOf(id, string(line)) {
				mine.Write(line)
			}
		}
	}
	labels, err := parseFC(mine.Bytes())
	return stemsOf(labels), err
}

// stemsOf are the paths of labels, each once and none below another, but for
// trees that are the system's: those would be labelled as a whole.
func stemsOf(labels []label) []string {
	var all []string
	for _, l := range labels {
		if !l.wide() {
			all = append(all, l.stem())
		}
	}
	return outermost(all)
}

// wide reports whether what the pattern labels lies anywhere in a tree of the
// system's.
func (l label) wide() bool {
	p := l.stem()
	return p == "" || slices.Contains(never, p) || slices.Contains(top, p)
}

// top are the directories of a system's root.
var top = []string{"/bin", "/lib", "/lib32", "/lib64", "/media", "/mnt", "/opt", "/sbin", "/srv", "/usr", "/var"}

func outermost(paths []string) []string {
	slices.Sort(paths)
	var out []string
	for _, p := range paths {
		if n := len(out); n > 0 && (p == out[n-1] || strings.HasPrefix(p, out[n-1]+"/")) {
			continue
		}
		out = append(out, p)
	}
	return out
}

// writeFile replaces a file whole: after a crash it is the old or the new one.
func writeFile(name string, text []byte, mode fs.FileMode) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
