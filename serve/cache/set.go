// Package cache is uWSGI's caching framework: named caches of a vassal that
// its workers, its routing rules and check-cache share. They belong to the
// core, so they outlive a worker; they are lost with the generation unless
// the cache names a store.
//
//	set, err := cache.New(app.Caches, app.Dir, log)
//	defer set.Close()
//	go set.Run(ctx)              // looks for what has expired, keeps stores
//	c := set.Named("sessions")   // "": the first; nil: there is none
//	err = c.Set("key", value, cache.Update, time.Hour)
//	value, ok := c.Get(nil, "key")
//
// A cache has a fixed number of items and of blocks. A value lies in one
// block, or with Bitmap in as many as it needs, which need not follow each
// other (uWSGI's must, so there a cache can be full of holes). Keys and blocks
// lie in anonymous mappings which the kernel fills with memory as they are
// used: a cache never takes more than Items x KeySize + Blocks x BlockSize and
// about 60 bytes an item, and the garbage collector sees none of it. What is
// free is used again; Clear gives the memory back.
//
// Set does not replace (Update does), fails when the cache is full, and fails
// for what is longer than the cache takes: libraries that evict as they think
// fit, and grow as they need, have none of this, which is why the code is our
// own. What has expired is never returned; it makes room when it is looked
// for, or when the cache is full. With PurgeLRU a full cache drops what has
// not been used for the longest time.
//
// Numbers (Inc and the like) are values of 8 bytes, little-endian, as in
// uWSGI. A key is at most KeySize bytes and at least one; a value is at least
// one byte.
//
// All methods are safe for concurrent use; a cache has one lock, held for the
// time of a look-up and of copying one value.
package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"sync"
	"time"

	"liege/vassal"
)

// Set is the caches of a vassal. Make one with New.
type Set struct {
	all []*Cache
	dir string
	log *slog.Logger
}

// New makes the caches, reads their stores, and puts in what the file asks
// for. Relative paths are below dir. An error is a *vassal.Problem that names
// the line; then nothing is left behind.
func New(caches []vassal.Cache, dir string, log *slog.Logger) (*Set, error) {
	s := &Set{dir: dir, log: log}
	for i := range caches {
		c, err := newCache(&caches[i], log)
		if err == nil {
			s.all = append(s.all, c)
			err = s.fill(c)
		}
		if err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// fill puts in what the store has, and what the vassal's file names.
func (s *Set) fill(c *Cache) error {
	if c.cfg.Store != "" {
		c.cfg.Store = s.absolute(c.cfg.Store)
		if err := c.load(); err != nil {
			return problem(c.cfg.At, "store", err)
		}
	}
	for i := range c.cfg.Put {
		p := &c.cfg.Put[i]
		value := []byte(p.Value)
		if p.File {
			var err error
			if value, err = readFile(s.absolute(p.Key), p.Gzip, c.cfg.Largest()); err != nil {
				return problem(p.At, "cache", err)
			}
		}
		if err := c.Set(p.Key, value, 0, 0); err != nil && !errors.Is(err, ErrExists) {
			return problem(p.At, "cache", fmt.Errorf("%.200q in %s: %w", p.Key, c.cfg.Name, err))
		}
	}
	return nil
}

func (s *Set) absolute(p string) string {
	if path.IsAbs(p) {
		return p
	}
	return path.Join("/", s.dir, p)
}

func problem(at vassal.Origin, key string, err error) error {
	return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadCache, File: at.File, Line: at.Line, Key: key, Step: "cache", Message: err.Error()}
}

// Named finds a cache by its name; "" is the first. It is nil if there is
// none. A nil Set has none.
func (s *Set) Named(name string) *Cache {
	if s == nil || len(s.all) == 0 {
		return nil
	}
	if name == "" {
		return s.all[0]
	}
	for _, c := range s.all {
		if c.cfg.Name == name {
			return c
		}
	}
	return nil
}

// All are the caches in the order of the file.
func (s *Set) All() []*Cache {
	if s == nil {
		return nil
	}
	return s.all
}

// Run looks for what has expired and writes the stores, until ctx is done;
// then it writes them once more.
func (s *Set) Run(ctx context.Context) {
	if s == nil {
		return
	}
	var all sync.WaitGroup
	defer all.Wait()
	for _, c := range s.all {
		all.Go(func() { c.run(ctx) })
	}
}

// saving is how many times longer than it takes to write a store the next time
// is waited for, at least: a large cache is written less often than it asks for.
const saving = 20

// run is Run for one cache.
func (c *Cache) run(ctx context.Context) {
	sweep := time.NewTicker(max(c.cfg.Sweep, time.Second))
	defer sweep.Stop()
	every := max(c.cfg.StoreSync, time.Second)
	save := time.NewTimer(every)
	defer save.Stop()
	if c.cfg.Store == "" {
		save.Stop()
	} else {
		defer c.save(true)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			if n := c.Sweep(); n > 0 && c.cfg.ReportFreed {
				c.log.Info("cache: expired items are gone", "cache", c.cfg.Name, "items", n)
			}
		case <-save.C:
			begun := time.Now()
			c.merge()
			c.save(false)
			save.Reset(max(every, saving*time.Since(begun)))
		}
	}
}

// Close gives the memory back. Nobody may use the caches any more.
func (s *Set) Close() {
	if s == nil {
		return
	}
	for _, c := range s.all {
		c.close()
	}
}
