package vassal

import "time"

// Cache is one of a vassal's caches: what a cache2 line says, or the cache
// lines that are older than that.
type Cache struct {
	Name        string        `json:"name"`
	Items       int           `json:"items"`              // at most; every one may hold a value
	KeySize     int           `json:"key_size"`           // longest key, in bytes
	BlockSize   int64         `json:"block_size"`         // bytes
	Blocks      int64         `json:"blocks"`             // memory is Blocks x BlockSize at most
	Bitmap      bool          `json:"bitmap,omitempty"`   // a value may take several blocks
	PurgeLRU    bool          `json:"lru,omitempty"`      // full: what was not used for the longest time goes
	ClearOnFull bool          `json:"clear,omitempty"`    // full: everything goes
	IgnoreFull  bool          `json:"silent,omitempty"`   // full: no word in the log
	NoExpire    bool          `json:"lasting,omitempty"`  // times to live are not looked at
	LastMod     bool          `json:"last_mod,omitempty"` // stats say when it was changed
	Initial     int64         `json:"initial,omitempty"`  // what a number that is not there yet counts from
	Store       string        `json:"store,omitempty"`    // file that keeps it; empty: it is lost with the generation
	StoreSync   time.Duration `json:"store_sync,omitempty"`
	StoreDelete bool          `json:"store_delete,omitempty"` // what lies there and is no cache's file is replaced
	Sweep       time.Duration `json:"sweep"`                  // between two looks for what has expired
	ReportFreed bool          `json:"report,omitempty"`       // log how many had
	Hash        string        `json:"hash"`                   // as written, for stats
	HashSize    int           `json:"hash_size"`              // the same
	Put         []CacheItem   `json:"put,omitempty"`          // at the start
	At          Origin        `json:"at"`
}

// CacheItem is put into a cache at the start: a value, or what a file holds,
// whose key is its path as written.
type CacheItem struct {
	Key   string `json:"key"`
	Value string `json:"value,omitempty"`
	File  bool   `json:"file,omitempty"` // Key is a path
	Gzip  bool   `json:"gzip,omitempty"` // the file's content is stored compressed
	At    Origin `json:"at"`
}

// Largest is the longest value that c takes, in bytes.
func (c *Cache) Largest() int64 {
	if c.Bitmap {
		return c.BlockSize * c.Blocks
	}
	return c.BlockSize
}
