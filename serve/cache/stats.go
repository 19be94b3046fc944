package cache

// Stats is what uWSGI's stats say about a cache.
type Stats struct {
	Name     string `json:"name"`
	Hash     string `json:"hash"` // as the file names it; the keys' places are chosen by another one
	HashSize int    `json:"hashsize"`
	KeySize  int    `json:"keysize"`
	MaxItems int    `json:"max_items"`
	Blocks   int64  `json:"blocks"`
	BlockLen int64  `json:"blocksize"`
	Items    int    `json:"items"`
	Hits     uint64 `json:"hits"`
	Miss     uint64 `json:"miss"`
	Full     uint64 `json:"full"`
	LastMod  int64  `json:"last_modified_at"`
}

// Stats is a picture of the counters.
func (c *Cache) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := &c.cfg
	return Stats{Name: f.Name, Hash: f.Hash, HashSize: f.HashSize, KeySize: f.KeySize, MaxItems: f.Items, Blocks: f.Blocks, BlockLen: f.BlockSize,
		Items: c.n, Hits: c.hits, Miss: c.miss, Full: c.full, LastMod: c.mod}
}

// Stats are those of all caches; nil without any.
func (s *Set) Stats() []Stats {
	var out []Stats
	for _, c := range s.All() {
		out = append(out, c.Stats())
	}
	return out
}
