package inifile

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"liege/vassal"
)

// Defaults and bounds of caches. The defaults are uWSGI's, but for the time
// between two writes of a store: uWSGI leaves that to the kernel.
const (
	defaultCacheBlock = 64 << 10
	defaultCacheKey   = 2048
	defaultCacheHash  = "djb33x"
	defaultHashSize   = 64 << 10
	defaultStoreSync  = time.Second
	defaultSweep      = 3 * time.Second

	maxCaches     = 64
	maxCacheItems = 1 << 24 // about 100 bytes each, used or not
	maxBlocks     = 1 << 30
	maxCacheBytes = 1 << 40 // addresses
	maxCacheKey   = 1<<16 - 1
	maxPut        = 4096
)

// caching is what lines about caches have said so far.
type caching struct {
	old    vassal.Cache // of the lines that are older than cache2
	named  []vassal.Cache
	put    []put
	check  *value
	sweep  time.Duration
	keep   bool // cache-no-expire
	report bool
}

// put is a line that puts something into a cache; empty: the first.
type put struct {
	cache string
	item  vassal.CacheItem
	v     value
}

// caches handles the lines about caches.
func (d *decoder) caches(v value) bool {
	c := &d.cache
	switch v.opt.Name {
	case "cache2":
		d.cache2(v)
	case "cache":
		c.old.Items, c.old.At = d.within(v, 0, maxCacheItems, "cache = 1000"), v.Origin
	case "cache-blocksize":
		c.old.BlockSize = int64(d.within(v, 0, maxCacheBytes, "cache-blocksize = 65536"))
	case "cache-store":
		c.old.Store = v.Value
	case "cache-store-sync":
		c.old.StoreSync = time.Duration(clampInt(v.n)) * time.Second
	case "cache-use-last-modified":
		c.old.LastMod = v.on
	case "cache-no-expire":
		c.keep = v.on
	case "cache-expire-freq":
		c.sweep = time.Duration(clampInt(v.n)) * time.Second
	case "cache-report-freed-items":
		c.report = v.on
	case "check-cache":
		c.check = &v
	case "add-cache-item":
		d.cacheItem(v)
	case "load-file-in-cache", "load-file-in-cache-gzip":
		name, file, ok := strings.Cut(v.Value, " ")
		if !ok {
			name, file = "", v.Value
		}
		c.put = append(c.put, put{name, vassal.CacheItem{Key: file, File: true, Gzip: v.opt.Name != "load-file-in-cache", At: v.Origin}, v})
		if path.IsAbs(file) {
			d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: file, Target: file, Access: vassal.ReadOnly, Key: v.Key, At: v.Origin})
		}
	default:
		return false
	}
	return true
}

// cacheItem reads "[cache ]key=value".
func (d *decoder) cacheItem(v value) {
	key, text, ok := strings.Cut(v.Value, "=")
	cache := ""
	if a, b, found := strings.Cut(key, " "); found {
		cache, key = a, b
	}
	if !ok || key == "" || text == "" {
		d.err(vassal.CodeBadCache, v.Setting, fmt.Sprintf("%q is not written as KEY=VALUE, or CACHE KEY=VALUE", clip(v.Value)), "add-cache-item = /ping=pong")
		return
	}
	d.cache.put = append(d.cache.put, put{cache, vassal.CacheItem{Key: key, Value: text, At: v.Origin}, v})
}

// cacheKeys are the words of a cache2 line, with the name they go by here.
var cacheKeys = map[string]string{
	"name": "name", "max_items": "items", "maxitems": "items", "items": "items", "blocksize": "blocksize", "blocks": "blocks",
	"hash": "hash", "hashsize": "hashsize", "hash_size": "hashsize", "keysize": "keysize", "key_size": "keysize",
	"store": "store", "store_sync": "sync", "storesync": "sync", "store_delete": "delete", "storedelete": "delete",
	"node": "remote", "nodes": "remote", "sync": "remote", "udp": "remote", "udp_servers": "remote", "udp_server": "remote", "udpservers": "remote", "udpserver": "remote",
	"bitmap": "bitmap", "lastmod": "lastmod", "math_initial": "initial", "ignore_full": "silent", "purge_lru": "lru", "lru": "lru",
	"lazy_expire": "always", "lazy": "always", "sweep_on_full": "always", "clear_on_full": "clear", "no_expire": "lasting",
}

// cache2 reads name=x,items=N and so on.
func (d *decoder) cache2(v value) {
	c := vassal.Cache{StoreSync: -1, At: v.Origin}
	said := map[string]bool{}
	for word := range strings.SplitSeq(v.Value, ",") {
		key, text, _ := strings.Cut(word, "=")
		key = strings.TrimSpace(key)
		known, ok := cacheKeys[key]
		said[known] = ok
		switch {
		case !ok: // nothing to uWSGI
			d.warn(vassal.CodeBadCache, v.Setting, fmt.Sprintf("%q is no part of a cache, and has no effect", clip(word)), "cache2 = name=sessions,items=1000")
		case known == "remote":
			d.warn(vassal.CodeNotYet, v.Setting, "not yet: "+key+": a cache is the vassal's own: other instances are not told of it, and tell it nothing", "")
		default:
			d.cacheWord(v, &c, known, key, text)
		}
	}
	if c.Name == "" {
		d.err(vassal.CodeBadCache, v.Setting, "the cache has no name", "cache2 = name=sessions,items=1000")
	}
	if !said["items"] {
		d.err(vassal.CodeBadCache, v.Setting, "does not say how many items the cache has", "cache2 = name=sessions,items=1000")
	}
	d.cache.named = append(d.cache.named, c)
}

// cacheWord reads one part of a cache2 line. Of those that are switches uWSGI
// asks only whether they are there.
func (d *decoder) cacheWord(v value, c *vassal.Cache, known, key, text string) {
	switch known {
	case "name":
		if strings.ContainsAny(text, "@ ") {
			d.err(vassal.CodeBadCache, v.Setting, fmt.Sprintf("%q: a name has no @ and no blank", clip(text)), "")
		}
		c.Name = text
	case "hash":
		c.Hash = text
	case "store":
		c.Store = text
	case "delete":
		c.StoreDelete = true
	case "bitmap":
		c.Bitmap = true
	case "lastmod":
		c.LastMod = true
	case "silent":
		c.IgnoreFull = true
	case "lru":
		c.PurgeLRU = true
	case "clear":
		c.ClearOnFull = true
	case "lasting":
		c.NoExpire = true
	case "always": // what has expired is never returned, and makes room
	default:
		d.cacheNumber(v, c, known, key, text)
	}
}

func (d *decoder) cacheNumber(v value, c *vassal.Cache, known, key, text string) {
	n, err := strconv.ParseInt(text, 10, 64)
	least, most := int64(1), int64(0)
	switch known {
	case "items":
		most = maxCacheItems
		c.Items = int(n)
	case "blocksize":
		most = maxCacheBytes
		c.BlockSize = n
	case "blocks":
		most = maxBlocks
		c.Blocks = n
	case "keysize":
		most = maxCacheKey - 1 // as in uWSGI
		c.KeySize = int(n)
	case "hashsize":
		most = 1 << 32
		c.HashSize = int(n)
	case "sync":
		least, most = 0, 1<<31
		c.StoreSync = time.Duration(min(max(n, 0), 1<<31)) * time.Second
	case "initial":
		least, most = -1<<63, 1<<63-1
		c.Initial = n
	}
	if err != nil || n < least || n > most {
		d.err(vassal.CodeBadCache, v.Setting, fmt.Sprintf("%s=%s: want a number from %d to %d", key, clip(text), least, most), "")
	}
}

// finishCaches joins what several lines say about caches.
func (d *decoder) finishCaches() {
	c := &d.cache
	all := &d.cfg.App.Caches
	if c.old.Items > 0 {
		c.old.Name = "default"
		*all = append(*all, c.old)
	}
	*all = append(*all, c.named...)
	d.atMost("caches", len(*all), maxCaches)
	d.atMost("cache items", len(c.put), maxPut)
	names, stores := map[string]bool{}, map[string]bool{}
	for i := range *all {
		e := &(*all)[i]
		d.wholeCache(e)
		s := Setting{Key: "cache2", Origin: e.At}
		if names[e.Name] {
			d.err(vassal.CodeBadCache, s, fmt.Sprintf("a second cache is called %q", clip(e.Name)), "")
		}
		if e.Store != "" && stores[e.Store] {
			d.err(vassal.CodeBadCache, s, fmt.Sprintf("two caches have the store %q", clip(e.Store)), "")
		}
		names[e.Name], stores[e.Store] = true, true
	}
	for _, p := range c.put {
		d.putInto(p)
	}
	if c.check != nil {
		name := strings.TrimSpace(c.check.Value)
		if c.check.Bare {
			name = ""
		}
		if !d.hasCache(name) {
			d.noCache(c.check.Setting, name)
		}
		d.cfg.App.CheckCache = &name
	}
}

// wholeCache gives a cache what its line left out, and looks at it as a whole.
func (d *decoder) wholeCache(e *vassal.Cache) {
	s := Setting{Key: "cache2", Origin: e.At}
	if e.BlockSize == 0 {
		e.BlockSize = defaultCacheBlock
	}
	if e.Blocks == 0 {
		e.Blocks = int64(e.Items)
	}
	if e.KeySize == 0 {
		e.KeySize = defaultCacheKey
	}
	if e.Hash == "" {
		e.Hash = defaultCacheHash
	}
	if e.HashSize == 0 {
		e.HashSize = defaultHashSize
	}
	if e.StoreSync < 0 {
		e.StoreSync = d.cache.old.StoreSync
	}
	if e.StoreSync == 0 {
		e.StoreSync = defaultStoreSync
	}
	e.Sweep, e.ReportFreed = d.cache.sweep, d.cache.report
	if e.Sweep == 0 {
		e.Sweep = defaultSweep
	}
	e.NoExpire = e.NoExpire || d.cache.keep
	switch limit := d.cfg.Limits.MemoryMax; {
	case e.Blocks < int64(e.Items):
		d.err(vassal.CodeBadCache, s, fmt.Sprintf("%s has %d items and only %d blocks", e.Name, e.Items, e.Blocks), fmt.Sprintf("blocks=%d", e.Items))
	case e.BlockSize > maxCacheBytes/max(e.Blocks, 1):
		d.err(vassal.CodeBadCache, s, fmt.Sprintf("%s: %d blocks of %d bytes are more than a cache can be", e.Name, e.Blocks, e.BlockSize), "")
	case limit > 0 && e.Blocks*e.BlockSize > limit:
		d.warn(vassal.CodeBadCache, s, fmt.Sprintf("%s may grow to %s, and the vassal has %s of memory", e.Name, sizeText(e.Blocks*e.BlockSize), sizeText(limit)),
			"fewer items, or a smaller blocksize")
	}
	if path.IsAbs(e.Store) {
		dir := path.Dir(e.Store)
		d.cfg.Jail.Named = append(d.cfg.Jail.Named, vassal.Bind{Source: dir, Target: dir, Access: vassal.AsHost, Key: "cache2", At: e.At})
	}
}

// putInto adds an item to its cache.
func (d *decoder) putInto(p put) {
	all := d.cfg.App.Caches
	i := slices.IndexFunc(all, func(c vassal.Cache) bool { return c.Name == p.cache })
	if p.cache == "" {
		i = 0
	}
	if i < 0 || i >= len(all) {
		d.noCache(p.v.Setting, p.cache)
		return
	}
	c := &all[i]
	if len(p.item.Key) > c.KeySize {
		d.err(vassal.CodeBadCache, p.v.Setting, fmt.Sprintf("the key is longer than the keysize of %s, %d bytes", c.Name, c.KeySize), "")
	}
	if int64(len(p.item.Value)) > c.Largest() {
		d.err(vassal.CodeBadCache, p.v.Setting, fmt.Sprintf("the value is longer than %s takes, %d bytes", c.Name, c.Largest()), "")
	}
	c.Put = append(c.Put, p.item)
}

// hasCache reports whether there is such a cache; "" is the first.
func (d *decoder) hasCache(name string) bool {
	all := d.cfg.App.Caches
	return name == "" && len(all) > 0 || slices.ContainsFunc(all, func(c vassal.Cache) bool { return c.Name == name })
}

func (d *decoder) noCache(s Setting, name string) {
	if name == "" {
		d.err(vassal.CodeBadCache, s, "there is no cache", "cache2 = name=mine,items=1000")
		return
	}
	d.err(vassal.CodeBadCache, s, fmt.Sprintf("there is no cache %q", clip(name)), "cache2 = name="+clip(name)+",items=1000")
}
