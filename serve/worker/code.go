package worker

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// code is the files of the application's code that are looked at, as its
// processes name them: uWSGI's py-autoreload and perl-auto-reload. It is this process that looks,
// and another generation that loads what has changed: one that does not load
// leaves this one serving, and the next change asks once more. What such a
// generation had loaded before it failed is not known here, so from then on
// every source file beside the application's own is looked at.
//
// The names are the tenant's and are opened by nobody: a file that is not
// there, and one that is too many, is not looked at.
type code struct {
	mu     sync.Mutex
	files  map[string]int64 // path: mtime in ns when it was loaded; 0: it was not there
	beside map[string]bool  // directories, once a change was seen; true: not looked at yet
	ignore map[string]bool  // names of files that do not count beside the others
	kinds  []string         // how the names of source files end
}

// Limits of code.
const (
	maxCode     = 20000
	maxCodePath = 4096
)

// add takes note of files: a path and its mtime in turns, or "now" where the
// language cannot tell that exactly: what it is when this is heard.
func (c *code) add(words []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil {
		c.files = make(map[string]int64)
	}
	for ; len(words) >= 2; words = words[2:] {
		path := words[0]
		ns, err := strconv.ParseInt(words[1], 10, 64)
		if words[1] == "now" {
			ns, err = mtime(path), nil
		}
		if err != nil || !filepath.IsAbs(path) || len(path) > maxCodePath || len(c.files) >= maxCode {
			continue
		}
		if _, known := c.files[path]; !known { // the loader's is the older
			c.files[path] = ns
		}
	}
}

// changed is a file that is not what was loaded; it is told once. A file that
// is gone has not changed: editors write a new one in its place.
func (c *code) changed() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	first := ""
	for path, ns := range c.files {
		now := mtime(path)
		if now == ns || now == 0 {
			continue
		}
		c.files[path] = now
		if first == "" || path < first {
			first = path
		}
	}
	if new := c.lookBeside(); first == "" {
		first = new
	}
	if first != "" {
		c.goBeside()
	}
	return first
}

// goBeside begins to look at the directories of the application's own code:
// what the interpreter brings and what was installed does not change beside a
// mistake.
func (c *code) goBeside() {
	if c.beside != nil {
		return
	}
	c.beside = make(map[string]bool)
	for path := range c.files {
		if own(path) {
			c.beside[filepath.Dir(path)] = true
		}
	}
	c.lookBeside()
}

// lookBeside adds the source files beside those that were loaded, and returns
// one that came since the last look.
func (c *code) lookBeside() (added string) {
	first := true
	for dir, looked := range c.beside {
		first = first && looked
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if _, known := c.files[path]; known || c.ignore[e.Name()] || !slices.Contains(c.kinds, filepath.Ext(path)) || len(c.files) >= maxCode {
				continue
			}
			if c.files[path] = mtime(path); added == "" || path < added {
				added = path
			}
		}
		c.beside[dir] = false
	}
	if first {
		return "" // nothing is new at the first look
	}
	return added
}

// own reports whether a file is neither of the interpreter nor installed.
func own(path string) bool {
	for _, part := range []string{"/site-packages/", "/dist-packages/", "/lib/python", "/perl5/", "/share/perl/", "/lib/perl/", "-gnu/perl"} {
		if strings.Contains(path, part) {
			return false
		}
	}
	return true
}

func mtime(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return st.ModTime().UnixNano()
}

// watched is how often the files are looked at, 0: never; the names of those
// that do not count beside the others; and how source files' names end.
func (p *Pool) watched() (every time.Duration, ignore map[string]bool, kinds []string) {
	ignore = make(map[string]bool)
	switch w := p.w; {
	case w.Python != nil:
		for _, name := range w.Python.Unwatched {
			ignore[name[strings.LastIndexByte(name, '.')+1:]+".py"] = true
		}
		return w.Python.Watch, ignore, []string{".py"}
	case w.Perl != nil:
		for _, name := range w.Perl.Unwatched {
			ignore[filepath.Base(name)] = true
		}
		return w.Perl.Watch, ignore, []string{".pm", ".pl", ".psgi"}
	}
	return 0, nil, nil
}

// watchCode looks at the files until the pool ends. Half of the interval that
// the file says: the other half is for whoever starts the next generation.
func (p *Pool) watchCode() {
	every, ignore, kinds := p.watched()
	if every <= 0 || p.Changed == nil {
		return
	}
	p.code.ignore, p.code.kinds = ignore, kinds
	p.lanes.Go(func() {
		tick := time.NewTicker(every / 2)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if file := p.code.changed(); file != "" {
					p.Changed(file)
				}
			case <-p.closed:
				return
			}
		}
	})
}
