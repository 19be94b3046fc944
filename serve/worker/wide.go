package worker

// defaultAsync is how many requests a worker of an asynchronous application
// serves at once.
const defaultAsync = 100

// measure sizes what depends on how many requests can be in flight. Whether
// the application is an asynchronous one is known when it is loaded, unless
// the file says so, so there is room for that from the start.
func (p *Pool) measure() {
	p.width.Store(int32(p.w.Threads))
	p.most = p.w.Threads
	if py := p.w.Python; py != nil {
		n := p.w.Async
		if n <= 0 && p.w.Threads > 1 {
			n = p.w.Threads
		} else if n <= 0 {
			n = defaultAsync
		}
		p.most = max(p.most, min(n, maxThreads, (maxCalls-backlog)/p.w.Processes))
		if py.ASGI || py.Gevent {
			p.width.Store(int32(p.most))
		}
	}
	p.calls = make([]*call, 0, p.w.Processes*p.most+backlog)
	p.free = make(chan *call, cap(p.calls))
	p.addCalls(p.w.Processes*p.lanesEach() + backlog)
	p.stats = make([]numberStats, p.w.Processes)
	for i := range p.stats {
		p.stats[i].threads = make([]threadStats, p.most)
	}
}

// addCalls makes calls until there are n.
func (p *Pool) addCalls(n int) {
	for i := len(p.calls); i < n; i++ {
		p.calls = append(p.calls, &call{index: i, left: -1, done: make(chan error, 1), poured: make(chan *spool, 1)})
	}
}

// lanesEach is how many lanes each worker has.
func (p *Pool) lanesEach() int { return int(p.width.Load()) }

// Parallel is how many requests the application serves at once; of several
// applications, the one that serves fewest. It is known once that is loaded.
func (p *Pool) Parallel() int {
	n := p.w.Processes * p.lanesEach()
	if p.fleet != nil {
		for _, q := range p.fleet.pools[1:] {
			n = min(n, q.w.Processes*q.lanesEach())
		}
	}
	return n
}

// widen gives each worker as many lanes as an asynchronous application has
// requests at once. It is called before the first worker is started.
func (p *Pool) widen() {
	if p.lanesEach() == p.most {
		return
	}
	had := len(p.calls)
	p.addCalls(p.w.Processes*p.most + backlog)
	for _, c := range p.calls[had:] {
		p.free <- c
	}
	p.width.Store(int32(p.most))
}
