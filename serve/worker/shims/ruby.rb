# The program inside a Ruby worker: see package worker for the protocol.
#
# It runs on Ruby 1.9.3 and later, so its syntax is that of 1.9. What a version
# may lack (writev, pwrite, warm-up of the heap) is asked for by respond_to?.
module Liege
  PROTOCOL = 1 # lang.Protocol
  CONTROL, QUEUE, SLOTS, STDERR_FD = 3, 4, 5, 6
  SELF = '<liege>'
  HEADER = 'a4VVVa8'.freeze # type, head bytes, body bytes, argument, request
  BIG = 1 << 18 # what is larger is sent in pieces of its own
  PIECE = 1 << 16
  PACKET = 1 << 15 # longest packet of the queue
  SPOOL = 112 << 10 # of a body that is kept in memory; the rest goes to a file
  CHEAP = 15 # exit status of a worker that was not needed any more
  NO_MEMORY = 23 # of one that ended by a NoMemoryError
  LEAVE = 1 # of one that its application has ended
  NOBODY = "\0" * 8
  EMPTY = ''.freeze
  GATHERS = RUBY_VERSION >= '2.5' # IO#write takes several strings, and writes them by one call

  # The client went away.
  class Aborted < Errno::EPIPE; end

  # Why the application cannot be loaded.
  class Failure < StandardError
    attr_reader :kind, :detail, :name

    def initialize(kind, message, detail = '', name = '')
      super(message)
      @kind, @detail, @name = kind, detail, name
    end
  end

  # ---- messages for people

  # Write whole lines to the log with one write, so that they stay whole.
  def self.say(text)
    text = text.to_s
    text += "\n" unless text.end_with?("\n")
    begin
      $stderr.syswrite(text)
    rescue SystemCallError, IOError
      # there is nowhere else to say it
    end
  end

  # The text of an exception, without the frames of this program.
  def self.trace(e)
    lines = (e.backtrace || []).reject { |l| l.start_with?(SELF, '-e:') }
    "#{summary(e)}\n" + lines.map { |l| "\tfrom #{l}\n" }.join
  rescue Exception => other # out of memory, out of stack, a hostile to_s
    "#{e.class} (no backtrace: #{other.class})\n"
  end

  def self.summary(e)
    text = begin
      e.message.to_s.dup.force_encoding('UTF-8')
    rescue Exception
      ''
    end
    text = text.force_encoding('BINARY') unless text.valid_encoding?
    text.empty? ? e.class.name.to_s : "#{e.class}: #{text}"
  end

  # ---- children that the application forks

  # Since Ruby 3.1 whatever forks does it by this.
  module Forking
    def _fork
      pid = super
      Liege.disown if pid == 0
      pid
    end
  end

  # Note that this process is one of ours. A child of the application's has another number.
  def self.settle(queue = nil)
    @mine, @queue = Process.pid, queue
    Process.singleton_class.send(:prepend, Forking) if queue && Process.respond_to?(:_fork)
  end

  # What waits for a request in a child, because it came back from a handler, is at its end.
  def self.disown
    return unless @queue
    last, other = UNIXSocket.pair
    other.close
    @queue.reopen(last)
    last.close
    @queue = nil
  end

  def self.mine?
    Process.pid == @mine
  end

  # End this process if the application has forked it: it came back from the
  # application's code, or raised e. The requests are its parent's.
  def self.stray(e = nil)
    return if mine?
    status = 1
    if e.is_a?(SystemExit)
      status = e.status
    elsif e
      say(trace(e))
    else
      status = 0
      say('a process that the application has forked ends where it would go on as its parent; hint: end it with exit!')
    end
    exit!(status)
  end

  # Call what is the application's. A process that it forks does not come back.
  def self.guarded
    result = yield
  rescue Exception => e
    stray(e)
    raise
  else
    stray
    result
  end

  # rack.errors: the log.
  class Errors
    def puts(*args)
      text = args.flatten.map { |a| a.to_s.end_with?("\n") ? a.to_s : "#{a}\n" }.join
      Liege.say(text.empty? ? "\n" : text)
      nil
    end

    def write(text)
      text = text.to_s
      Liege.say(text) unless text.empty?
      text.bytesize
    end

    def <<(text)
      write(text)
      self
    end

    def flush
      self
    end

    def sync
      true
    end

    def close
    end

    def fileno
      2
    end

    def tty?
      false
    end
    alias isatty tty?
  end

  # ---- request bodies

  # rack.input of a body that the core sends piece by piece, as asked for.
  # What was read is kept, in memory and then in a file of the private /tmp, so
  # that it can be read again.
  class Input
    def initialize(request)
      @request = request
      @kept = StringIO.new(''.dup.force_encoding('BINARY'))
      @got = 0 # bytes that came
      @at = 0 # where the application reads
      @over = false
    end

    def read(length = nil, buffer = nil)
      if length.nil?
        fetch(1 << 16) until @over
        data = take(@got - @at)
      else
        length = Integer(length)
        raise ArgumentError, "negative length #{length} given" if length < 0
        fetch(@at + length - @got) until @over || @got - @at >= length
        data = take([length, @got - @at].min, buffer)
        data = nil if data.empty? && length > 0
      end
      return data unless buffer
      buffer.replace(data || '') unless data.equal?(buffer)
      data && buffer
    end

    def readpartial(length, buffer = nil)
      fetch(length) if @got == @at && !@over
      data = read([length, @got - @at].min)
      raise EOFError, 'end of file reached' if data.nil? || data.empty? && length > 0
      buffer ? buffer.replace(data) : data
    end

    def gets(separator = $/, limit = nil)
      return (data = read; data.empty? ? nil : data) if separator.nil?
      line = ''.dup.force_encoding('BINARY')
      separator = (separator == '' ? "\n" : separator).dup.force_encoding('BINARY')
      from = 0 # what is before it has no separator
      size = 4096 # most lines are short
      while (piece = readable(size))
        line << piece
        if (at = line.index(separator, from))
          at += separator.bytesize
          @at -= line.bytesize - at
          return line.byteslice(0, at)
        end
        size = [2 * size, PIECE].min
        from = [line.bytesize - separator.bytesize + 1, 0].max
      end
      line.empty? ? nil : line
    end

    def each
      return to_enum(:each) unless block_given?
      while (line = gets)
        yield line
      end
      self
    end

    def rewind
      @at = 0
      0
    end

    def pos
      @at
    end
    alias tell pos

    def eof?
      fetch(1) if @got == @at && !@over
      @got == @at
    end

    def binmode
      self
    end

    def external_encoding
      Encoding::BINARY
    end

    def set_encoding(*)
      self
    end

    def close
      @kept.close if @kept.respond_to?(:close!) || !@kept.closed?
      nil
    end

    # The request is over: nothing more comes, and the file goes.
    def finish
      @over = true
      @request = nil
      @kept.close! if @kept.respond_to?(:close!)
    end

    private

    # Up to n bytes that are there, or come next.
    def readable(n)
      fetch(n) if @got == @at && !@over
      data = take([n, @got - @at].min)
      data.empty? ? nil : data
    end

    def take(n, buffer = nil)
      return ''.dup.force_encoding('BINARY') if n <= 0
      @kept.seek(@at)
      data = buffer ? @kept.read(n, buffer) : @kept.read(n)
      @at += data.bytesize
      data
    end

    def fetch(n)
      raise IOError, 'the request is over: its body cannot be read any more' unless @request
      data = @request.pull([[n, 1].max, PIECE].min)
      if data.empty?
        @over = true
        return
      end
      spill if @got + data.bytesize > SPOOL && @kept.is_a?(StringIO)
      @kept.seek(@got)
      @kept.write(data)
      @got += data.bytesize
      data.clear # its memory is not the next collection's business
    end

    def spill
      require 'tempfile'
      file = Tempfile.new('rack-input')
      file.binmode
      file.unlink # on Linux it stays readable
      file.write(@kept.string)
      @kept = file
    end
  end

  # ---- streams

  # What a streaming body is called with (Rack 3) and what rack.hijack in the
  # answer's header gets (since Rack 1.5): the client's connection as far as
  # this answer is concerned. The worker waits until it is closed.
  class Stream
    def initialize(request, input)
      @request, @input = request, input
      @lock = Mutex.new
      @closing = ConditionVariable.new
      @closed = false
    end

    def write(*pieces)
      size = 0
      @lock.synchronize do
        raise IOError, 'closed stream' if @closed
        pieces.each do |p|
          p = p.to_s
          size += p.bytesize
          @request.send(p) unless p.empty?
        end
      end
      size
    end
    alias syswrite write
    alias write_nonblock write

    def print(*pieces)
      write(*pieces)
      nil
    end

    def puts(*lines)
      lines = [''] if lines.empty?
      write(lines.flatten.map { |l| l.to_s.end_with?("\n") ? l.to_s : "#{l}\n" }.join)
      nil
    end

    def <<(data)
      write(data)
      self
    end

    def flush
      self
    end

    def read(*args)
      @input.read(*args)
    end

    def readpartial(*args)
      @input.readpartial(*args)
    end

    def gets(*args)
      @input.gets(*args)
    end

    def sync
      true
    end

    def sync=(value)
      value
    end

    def close_read
    end

    def close_write
      close
    end

    def close(_error = nil)
      @lock.synchronize do
        @closed = true
        @closing.broadcast
      end
      nil
    end

    def closed?
      @closed
    end

    def wait
      @lock.synchronize do
        @closing.wait(@lock) until @closed
      end
    end
  end

  # ---- one request

  class Request
    attr_accessor :skip
    attr_reader :started, :over

    def initialize(lane, id, head_only)
      @lane = lane
      @id = id
      @head = nil # the status line and fields, encoded
      @started = false # they are on their way
      @left = -1 # bytes that Content-Length still allows; -1: not said
      @skip = head_only # no body is sent
      @aborted = false
      @over = false # the core counts it as answered
      @lock = nil # of what begins or ends the answer, where hints may come meanwhile
    end

    # Begin the answer, or end it, by what the block sends.
    def turn(over)
      @lock.lock if @lock
      begin
        @started = true
        @over = over
        yield
      ensure
        @lock.unlock if @lock
      end
    end

    # The head of the answer, by the rules of each Rack: values are strings,
    # their lines are fields of their own (Rack 1 and 2), or arrays (Rack 3).
    # Fields whose names begin with "rack." are the server's own.
    def head(status, headers)
      code = Integer(status)
      raise ArgumentError, "the status is #{status.inspect}, not 200 to 599" if code < 200 || code > 599
      @skip = true if code == 204 || code == 304
      head = code.to_s.dup
      headers.each do |name, value|
        name = name.to_s
        next if name.start_with?('rack.')
        @left = Integer(value.is_a?(Array) ? value[0] : value) if name.bytesize == 14 && name.casecmp('content-length') == 0
        if value.is_a?(Array)
          value.each { |v| field(head, name, v.to_s) }
        else
          value = value.to_s
          if value.include?("\n")
            value.split("\n").each { |v| field(head, name, v) }
          else
            field(head, name, value)
          end
        end
      end
      @code = code
      @head = head
    end

    def status
      @code
    end

    def field(head, name, value)
      head.force_encoding(Encoding::BINARY) unless value.ascii_only? && name.ascii_only?
      value = value.dup.force_encoding(Encoding::BINARY) unless value.ascii_only?
      head << "\0" << self.class.whole_word(name) << "\0" << self.class.whole_word(value)
    end

    # Behind a NUL would be a field of its own.
    def self.whole_word(text)
      raise ArgumentError, 'a NUL in a header field' if text.include?("\0")
      text
    end

    def own
      raise IOError, 'only the worker can answer its request, and not a process that it has forked' unless Liege.mine?
    end

    def put(kind, head, body, arg)
      own
      header = [kind, head.bytesize, body.bytesize, arg, @id].pack(HEADER)
      if GATHERS
        @lane.write(header, head, body)
      else
        @lane.write(header + head.dup.force_encoding('BINARY') + body.dup.force_encoding('BINARY'))
      end
    end

    # An answer of which data is the whole body, in one message.
    def whole(data)
      size = data.bytesize
      if @left >= 0 && size > @left
        data = data.byteslice(0, @left)
        size = @left
      end
      data = EMPTY if @skip
      turn(true) { put('A', @head, data, size) }
    end

    # Whether data is all that the answer's Content-Length says.
    def all?(data)
      !@started && @left == data.bytesize && @left <= BIG
    end

    # Send data, after the head if that is still to come.
    def send(data)
      raise IOError, 'the answer is complete: nothing can be added to it' if @over
      if @left >= 0
        data = data.byteslice(0, @left) if data.bytesize > @left
        @left -= data.bytesize
      end
      data = EMPTY if @skip
      if !@started
        first = data.bytesize <= BIG ? data : data.byteslice(0, BIG)
        turn(false) { put('H', @head, first, 0) }
      else
        check
        return if data.empty?
        first = data.bytesize <= BIG ? data : data.byteslice(0, BIG)
        put('D', EMPTY, first, 0)
      end
      at = BIG
      while at < data.bytesize
        check
        put('D', EMPTY, data.byteslice(at, BIG), 0)
        at += BIG
      end
    end

    def finish(failed)
      return if @over
      turn(true) { put('E', EMPTY, EMPTY, failed ? 1 : 0) }
    end

    # rack.early_hints: a 103 before the answer, of Puma's header: an array of values,
    # or their lines. Behind the head it is too late, and nothing is said: any thread
    # may call it.
    def hints
      @lock = Mutex.new
      method(:hint)
    end

    def hint(headers)
      fields = ''.dup
      headers.each do |name, values|
        values = values.to_s.split("\n") unless values.is_a?(Array)
        values.each { |v| [name, v].each { |s| fields << self.class.whole_word(s.to_s.dup.force_encoding('BINARY')) << "\0" } }
      end
      fields.force_encoding('BINARY')
      @lock.synchronize { put('I', EMPTY, fields, 103) unless @started || @over }
      nil
    end

    # The connection itself is the application's from here on: what it sends is
    # an answer with its head.
    def hijack
      raise IOError, 'the answer has begun: the connection cannot be taken over' if @started || @over
      own, other = UNIXSocket.pair
      turn(false) { put('J', EMPTY, EMPTY, 0) }
      frame
      @lane.send_io(other)
      other.close
      @over = true
      own
    end

    # Let the core send a file; false: it is not one.
    def file(path)
      return false if @started || @code == 206
      file = File.open(path, 'rb')
      begin
        stat = file.stat
        return false unless stat.file?
        count = stat.size
        count = @left if @left >= 0 && @left < count
        if @skip || count == 0
          send(EMPTY)
          return true
        end
        turn(false) { put('H', @head, EMPTY, 0) }
        put('F', EMPTY, [0, count].pack('Q<Q<'), 0)
        frame
        @lane.send_io(file)
        true
      ensure
        file.close
      end
    rescue Errno::ENOENT, Errno::EACCES
      false # the body's each may know better
    end

    # One frame of the core's about this request; others are old news.
    def frame
      loop do
        header = exactly(24)
        kind, _, size, arg, id = header.unpack(HEADER)
        data = size > 0 ? exactly(size) : EMPTY
        next if id != @id
        if kind.getbyte(0) == 88 # X
          @aborted = true
          raise Aborted, 'the client went away'
        end
        return [arg, data]
      end
    end

    def exactly(n)
      data = @lane.recv(n)
      exit!(0) if data.nil? || data.empty?
      while data.bytesize < n
        more = @lane.recv(n - data.bytesize)
        exit!(0) if more.nil? || more.empty?
        data << more
      end
      data
    end

    def check
      own
      raise Aborted, 'the client went away' if @aborted
      frame if IO.select([@lane], nil, nil, 0)
    end

    # At most size bytes of the request's body; empty at its end.
    def pull(size)
      raise IOError, 'the request is over: its body cannot be read any more' if @over
      put('R', EMPTY, EMPTY, size)
      arg, data = frame
      raise Errno::EIO, 'the request body could not be read: the client went away or was too slow' if arg != 0
      data
    end

    # The packet of a request that does not fit the queue's.
    def packet
      put('V', EMPTY, EMPTY, 0)
      all = ''.dup.force_encoding('BINARY')
      loop do
        arg, data = frame
        all << data
        return Marshal.load(all) if arg == 0
      end
    end
  end

  # ---- serving

  # Call the application and send what it answers, which is kept in reply.
  def self.answer(app, env, request, input, reply)
    status, headers, body = *app.call(env)
    reply.replace([status, headers])
    begin
      return if request.over # hijacked
      if status.nil? && headers.nil?
        raise TypeError, 'the application returned nothing; want [status, headers, body]'
      end
      request.head(status, headers)
      hijack = headers['rack.hijack'] if headers.respond_to?(:[]) && !headers.is_a?(Array)
      if hijack
        stream(request, input, hijack)
      else
        send_body(request, input, body)
      end
    ensure
      body.close if body.respond_to?(:close)
    end
  end

  # Call what the application wants called when a request is over, however it ended.
  # The status to exit with, 0 to go on.
  def self.finished(env, reply, failure)
    status = 0
    done = env['rack.response_finished']
    return status if !done || done.empty?
    done.reverse.each do |f|
      begin
        guarded { f.call(env, reply[0], reply[1], failure) }
      rescue Exception => e
        say(trace(e))
        status = [status, fate(e)].max
      end
    end
    status
  rescue Exception => e # the application has put something else there
    say(trace(e))
    fate(e)
  end

  def self.send_body(request, input, body)
    list = body.is_a?(Array) ? body : body.respond_to?(:to_ary) && body.to_ary
    if list # that of Rails has a to_ary which returns nil
      array(request, list)
    elsif body.respond_to?(:to_path) && (path = body.to_path) && request.file(path.to_s)
      request.finish(false)
    elsif body.is_a?(String) || !body.respond_to?(:each) && body.respond_to?(:to_str)
      array(request, [body.to_str])
    elsif body.respond_to?(:each)
      each(request, body)
    elsif body.respond_to?(:call)
      stream(request, input, body)
    elsif body.nil?
      array(request, [])
    else
      raise TypeError, "the body is a #{body.class}, which has neither each nor call"
    end
  end

  def self.piece(data)
    raise TypeError, "the body yielded #{data.class}, not String" unless data.is_a?(String)
    data
  end

  def self.array(request, body)
    case body.length
    when 0 then data = EMPTY
    when 1 then data = piece(body[0])
    else
      size = 0
      body.each { |d| size += piece(d).bytesize }
      return each(request, body) if size > BIG
      data = ''.dup.force_encoding('BINARY')
      body.each { |d| data << (d.ascii_only? ? d : d.dup.force_encoding('BINARY')) }
    end
    if data.bytesize > BIG
      request.send(data)
      request.finish(false)
    else
      request.whole(data)
    end
  end

  def self.each(request, body)
    if request.skip
      request.send(EMPTY)
      return request.finish(false)
    end
    body.each do |data|
      next if piece(data).empty? || request.over
      if request.all?(data)
        request.whole(data) # the rest of the iteration is the application's own business
      else
        request.send(data)
      end
    end
    return if request.over
    request.started ? request.finish(false) : request.whole(EMPTY)
  end

  def self.stream(request, input, callable)
    request.send(EMPTY)
    return request.finish(false) if request.skip
    stream = Stream.new(request, input)
    callable.call(stream)
    stream.wait
    request.finish(false)
  end

  # The status to exit with after a failure, 0 to go on; LEAVE: the application has ended the worker.
  def self.fate(e)
    case e
    when NoMemoryError then NO_MEMORY
    when SystemExit, Interrupt, SignalException then LEAVE
    else 0
    end
  end

  # Answer one request. The status to exit with, 0 to go on.
  def self.serve(app, base, packet, lane)
    id, body, env = packet
    request = Request.new(lane, id, env['REQUEST_METHOD'] == 'HEAD')
    env.update(base)
    input = case body
            when nil then StringIO.new(''.dup.force_encoding('BINARY'))
            when true then Input.new(request)
            else StringIO.new(body)
            end
    env['rack.input'] = input
    env['rack.response_finished'] = []
    env['rack.hijack'] = lambda { env['rack.hijack_io'] ||= request.hijack }
    if env['rack.early_hints'] # the worker's wish; a client by HTTP/1.0 takes none
      env['SERVER_PROTOCOL'] == 'HTTP/1.0' ? env.delete('rack.early_hints') : env['rack.early_hints'] = request.hints
    end
    reply, failure, status, late = [], nil, 0, 0
    begin
      guarded { answer(app, env, request, input, reply) }
    rescue Aborted => failure
      request.finish(true)
    rescue Exception => failure
      say(trace(failure))
      begin
        request.finish(true)
      rescue SystemCallError
        exit!(1)
      end
      status = fate(failure)
    ensure
      late = finished(env, reply, failure)
      input.finish if body == true
    end
    [status, late].max
  end

  # ---- functions that routing rules call

  RPC = {} # name: function

  def self.call_rpc(request, name, args)
    func = RPC[name]
    result = func && guarded { func.call(*args) }
    unless result.nil? || result.is_a?(String)
      raise TypeError, "rpc function #{name} returned #{result.class}, not String"
    end
    request.head(func.nil? ? 404 : result.nil? ? 204 : 200, {})
    request.skip = false
    request.whole(result || EMPTY)
    0
  rescue Exception => e
    say(trace(e))
    request.finish(true)
    fate(e)
  end

  # ---- the UWSGI module

  def self.uwsgi_module(config)
    mod = Module.new
    Object.const_set(:UWSGI, mod)
    mod.const_set(:VERSION, config['version'])
    mod.const_set(:HOSTNAME, Socket.gethostname)
    mod.const_set(:NUMPROC, config['processes'])
    opt = {}
    config.delete('keys').each_slice(2) do |name, value|
      name, value = [name, value].map { |s| s.dup.force_encoding('UTF-8') }
      opt[name] = opt.key?(name) ? Array(opt[name]) << value : value
    end
    config.delete('flags').each { |name| opt[name] = true }
    mod.const_set(:OPT, opt)
    define = lambda { |name, &block| mod.define_singleton_method(name, &block) }
    define.call(:worker_id) { config['worker'] || 0 }
    define.call(:masterpid) { config['master'] }
    define.call(:setprocname) { |title| Liege.title(title) }
    define.call(:log) { |text| Liege.say(text); true }
    define.call(:register_rpc) do |name, func = nil, _args = 0|
      func = mod.method(func) if func.is_a?(Symbol)
      raise ArgumentError, 'an rpc function must have a method call' unless func.respond_to?(:call)
      RPC[name.to_s.dup.force_encoding('BINARY')] = func
      true
    end
    define.call(:rpc) do |node, name, *args|
      raise ArgumentError, 'functions of other instances are not called yet' unless node.nil? || node.empty?
      func = RPC[name.to_s.dup.force_encoding('BINARY')]
      raise ArgumentError, "unable to call rpc function #{name}: it is not registered" unless func
      func.call(*args)
    end
  end

  # ---- loading

  # The first place of the application in a backtrace.
  def self.place(e, dir)
    lines = (e.backtrace || []).reject { |l| l.start_with?(SELF, '-e:', '<internal:') }
    line = lines.find { |l| l.start_with?(dir + '/') } || lines[0]
    line ? line.to_s[/\A.*?:\d+/].to_s : ''
  end

  def self.guard(config, &block)
    guarded(&block)
  rescue Failure
    raise
  rescue LoadError => e
    raise Failure.new('load', summary(e), "#{place(e, config['dir'])}\0#{trace(e)}", (e.respond_to?(:path) && e.path).to_s)
  rescue SyntaxError => e
    raise Failure.new('syntax', e.message.to_s, "\0#{trace(e)}")
  rescue NoMemoryError => e
    raise Failure.new('memory', summary(e), "\0#{trace(e)}")
  rescue SystemExit => e
    raise Failure.new('exit', "it called exit(#{e.status}) while it was loaded", "#{place(e, config['dir'])}\0#{trace(e)}")
  rescue Exception => e
    kind = e.class.name.to_s.start_with?('Bundler::') || e.class.name.to_s.start_with?('Gem::') ? 'gem' : 'exception'
    raise Failure.new(kind, summary(e), "#{place(e, config['dir'])}\0#{trace(e)}")
  end

  # Bundler, where the application's directory has a Gemfile, or the
  # environment names one.
  def self.bundle(config)
    gemfile = ENV['BUNDLE_GEMFILE'].to_s
    if gemfile.empty?
      gemfile = [config['file'] && File.dirname(config['file']), config['dir']].compact.
        map { |d| File.join(d, 'Gemfile') }.find { |f| File.file?(f) }
      return unless gemfile
      ENV['BUNDLE_GEMFILE'] = gemfile
    end
    begin
      require 'bundler/setup'
    rescue LoadError => e
      raise unless e.message.include?('bundler/setup')
      raise Failure.new('gem', "#{gemfile} is there, but this ruby has no bundler", '', 'bundler')
    end
  end

  def self.load(config)
    guard(config) do
      file = config['file']
      raise Failure.new('file', "#{file}: No such file or directory") unless File.exist?(file)
      config['require'].each { |name| require_one(name) }
      begin
        require 'rack'
      rescue LoadError => e
        raise unless e.message =~ / rack\z/
        raise Failure.new('gem', "#{summary(e)}: this ruby has no gem rack", '', 'rack')
      end
      app = Rack::Builder.parse_file(file)
      app = app[0] if app.is_a?(Array) # Rack 1 and 2: with options of its first line
      raise Failure.new('callable', "#{file} makes #{app.inspect[0, 100]}, which has no method call") unless app.respond_to?(:call)
      app
    end
  end

  def self.require_one(name)
    name.include?('/') || name.end_with?('.rb') ? Kernel.load(File.expand_path(name)) : require(name)
  end

  # Make the process one that the application expects.
  def self.prepare(config)
    File.umask(config['umask']) if config['umask'] >= 0
    if config['nice'] != 0
      begin
        Process.setpriority(Process::PRIO_PROCESS, 0, config['nice'])
      rescue SystemCallError => e
        say("liege: prio #{config['nice']}: #{e.message}")
      end
    end
    begin
      Dir.chdir(config['dir'])
    rescue SystemCallError => e
      raise Failure.new('dir', e.message)
    end
    config['lib'].reverse.each { |dir| $LOAD_PATH.unshift(dir) }
    uwsgi_module(config)
    guard(config) do
      bundle(config)
      config['shared_require'].each { |name| require_one(name) }
    end
  end

  # ---- processes

  def self.title(text)
    $0 = text.to_s
  rescue StandardError
    # not worth a word
  end

  # Where a thread writes down the request it works on; see package worker.
  # Each has an open file of its own, for Ruby that cannot write at a place.
  class Slot
    def initialize(number)
      @at = 8 * number
      @file = File.open("/proc/self/fd/#{SLOTS}", 'r+b')
      @file.sync = true
      @there = @file.respond_to?(:pwrite)
    end

    def put(id)
      return @file.pwrite(id, @at) if @there
      @file.sysseek(@at)
      @file.syswrite(id)
    end
  end

  class Worker
    attr_reader :cheap

    def initialize(config, app, number, slots, lanes)
      @config, @app, @number, @slots, @lanes = config, app, number, slots, lanes
      @left = config['max_requests']
      @left += config['max_requests_delta'] * (number - 1) if @left > 0
      @limit = @left > 0
      @count = Mutex.new
      @cheap = false
      @born = Liege.now
      @life = config['life'] > 0 ? (config['life'] + config['life_delta'] * (number - 1)) / 1000.0 : nil
      @size = config['rss'] > 0 || config['as'] > 0
      @gc = config['gc_freq']
      @served = 0
    end

    def hello(kind, text = '')
      @lanes[0].write([kind, 0, text.bytesize, 0, NOBODY].pack(HEADER) + text.dup.force_encoding('BINARY'))
    end

    def base(core)
      base = {
        'rack.version' => [1, 3], 'rack.errors' => Errors.new,
        'rack.multithread' => @lanes.length > 1, 'rack.multiprocess' => @config['processes'] > 1,
        'rack.run_once' => false, 'rack.hijack?' => true,
        'uwsgi.version' => @config['version'], 'uwsgi.node' => @config['node'], 'uwsgi.core' => core
      }
      base['rack.early_hints'] = true if @config['early_hints'] # serve makes it what is called
      base
    end

    def loop(core)
      lane, app, base = @lanes[core], @app, base(core)
      slot = Slot.new(@slots + core)
      queue = Socket.for_fd(QUEUE)
      queue.autoclose = false
      receive = receiver(queue)
      worn = @life || @size
      while (data = receive.call)
        break if data.empty?
        packet = Marshal.load(data)
        if packet.is_a?(Hash)
          id = packet['liege.id']
          slot.put(id)
          if packet['liege.probe']
            lane.write(['P', 0, 0, 0, id].pack(HEADER))
            next
          elsif packet['liege.retire']
            @cheap = true
            break retire(lane)
          elsif packet['liege.rpc']
            status = Liege.call_rpc(Request.new(lane, id, false), packet['liege.rpc'], packet['liege.args'])
          else
            large = Request.new(lane, id, false).packet
            if large.is_a?(Hash)
              status = Liege.call_rpc(Request.new(lane, id, false), large['liege.rpc'], large['liege.args'])
            else
              status = Liege.serve(app, base, large, lane)
            end
          end
        else
          slot.put(packet[0])
          status = Liege.serve(app, base, packet, lane)
        end
        break retire(lane) if status == LEAVE && @wake # the requests of other threads have no part in it
        exit!(status) if status != 0
        collect if @gc > 0
        break retire(lane) if @limit && spent || worn && worn?
      end
    end

    # Count a request; whether it was the last.
    def spent
      @count.synchronize { (@left -= 1) <= 0 }
    end

    def collect
      GC.start if @count.synchronize { (@served += 1) % @gc == 0 }
    end

    # Whether this worker has run or grown for long enough.
    def worn?
      age = Liege.now - @born
      return true if @life && age >= @life
      return false if !@size || age * 1000 < @config['youth']
      size, resident = File.read('/proc/self/statm').split.map { |n| n.to_i * 4096 }
      @config['rss'] > 0 && resident >= @config['rss'] || @config['as'] > 0 && size >= @config['as']
    end

    # How a thread takes a request. Where workers retire and have several
    # threads one of them waits at a time, and can be told to stop waiting.
    def receiver(queue)
      return lambda { queue.recv(PACKET) } if !@config['retire'] || @lanes.length == 1
      lock, wake = @lock, @wake[0]
      lambda do
        lock.synchronize do
          data = nil
          until data
            ready = IO.select([queue, wake])
            return '' if ready[0].include?(wake)
            begin
              data = queue.recv_nonblock(PACKET)
              return '' if data.nil?
            rescue IO::WaitReadable
              data = nil
            end
          end
          data
        end
      end
    end

    # Take no more requests: the core is told, so that another worker comes.
    def retire(lane)
      lane.write(['Q', 0, 0, @cheap ? 1 : 0, NOBODY].pack(HEADER))
      @wake[1].syswrite('.') if @wake
      nil
    end

    def run
      unless @app
        begin
          @app = Liege.load(@config)
        rescue Failure => f
          Liege.report(f)
          return hello('N', Liege.failure(f))
        end
      end
      begin
        Liege.guarded { UWSGI.post_fork_hook } if UWSGI.respond_to?(:post_fork_hook)
      rescue StandardError => e
        Liege.say(Liege.trace(e))
      end
      @lock, @wake = Mutex.new, IO.pipe if @lanes.length > 1 && @config['retire']
      hello('L')
      threads = (1...@lanes.length).map do |core|
        Thread.new do
          begin
            Liege.guarded { loop(core) }
          rescue Exception => e
            Liege.say(Liege.trace(e))
            exit!(1)
          end
        end
      end
      Liege.guarded { loop(0) }
      threads.each { |t| t.join }
    end
  end

  def self.now
    defined?(Process::CLOCK_MONOTONIC) ? Process.clock_gettime(Process::CLOCK_MONOTONIC) : Time.now.to_f
  end

  def self.failure(f)
    place, = f.detail.split("\0", 2)
    [f.kind, f.message.to_s[0, 2000], place.to_s[0, 1000], f.name].map { |s| s.to_s.dup.force_encoding('BINARY') }.join("\0")
  end

  def self.report(f)
    _, text = f.detail.split("\0", 2)
    say(text) if text && !text.empty?
  end

  def self.become_worker(config, app, order, ios)
    settle(keep(QUEUE))
    config['worker'] = order['worker']
    title(config['title_plain'] ? config['title'] : "#{config['title']} worker #{order['worker']}")
    lanes = ios.map do |io|
      io.autoclose = false
      io.close_on_exec = true
      lane = UNIXSocket.for_fd(io.fileno)
      lane.sync = true
      lane
    end
    worker = Worker.new(config, app, order['worker'], order['slots'], lanes)
    worker.run
    worker.cheap ? CHEAP : 0
  end

  # Give back what loading has left over, and move what stays together, so that
  # the workers share its pages.
  def self.warm_up
    if Process.respond_to?(:warmup)
      Process.warmup
    else
      GC.start
      GC.compact if GC.respond_to?(:compact)
    end
  rescue NotImplementedError
    # this system cannot move objects
  end

  def self.reap(control, children)
    children.keys.each do |pid|
      begin
        done, status = Process.waitpid2(pid, Process::WNOHANG)
      rescue Errno::ECHILD
        done, status = pid, 0
      end
      next unless done
      children.delete(pid)
      begin
        control.send("exited\0#{pid}\0#{status.to_i}", 0)
      rescue SystemCallError
        exit!(0)
      end
    end
  end

  def self.main(control)
    err = IO.for_fd(STDERR_FD, 'w')
    $stderr.reopen(err)
    err.close
    $stderr.sync = $stdout.sync = true
    %w(USR2 WINCH TSTP).each { |name| trap(name, 'DEFAULT') } # the core ignores them
    [control, keep(QUEUE), keep(SLOTS)].each { |io| io.close_on_exec = true }
    settle
    config = Marshal.load(control.recv(1 << 18))
    config['node'] = Socket.gethostname
    title(config['title_plain'] ? config['title'] : "#{config['title']} loader")
    app = nil
    begin
      raise Failure.new('protocol', 'the core speaks another protocol than the worker') if config['protocol'] != PROTOCOL
      prepare(config)
      app = load(config) unless config['lazy']
    rescue Failure => f
      report(f)
      control.send("failed\0".dup.force_encoding('BINARY') + failure(f), 0)
      exit!(0)
    end
    attend(control, config, app)
  end

  # An IO of descriptor fd that nobody closes.
  def self.keep(fd)
    io = IO.for_fd(fd, 'r+')
    io.autoclose = false
    (@kept ||= []) << io
    io
  end

  # Fork the workers that the core orders, until it is gone.
  def self.attend(control, config, app)
    warm_up
    children = {}
    woken, wake = IO.pipe
    ended = trap('CHLD') do # ended: as the application has it
      begin
        wake.write_nonblock('.')
      rescue SystemCallError
        # it is full: there is a wake-up in it
      end
    end
    control.send('loaded', 0)
    loop do
      ready, = IO.select([control, woken])
      if ready.include?(woken)
        woken.read_nonblock(512)
        reap(control, children)
      end
      next unless ready.include?(control)
      data, _, _, *rights = control.recvmsg(4096, 0, 4096, :scm_rights => true)
      exit!(0) if data.nil? || data.empty? # the core is gone or wants no more workers
      order = Marshal.load(data)
      ios = rights.map { |r| r.unix_rights || [] }.flatten
      $stdout.flush
      pid = fork
      unless pid
        trap('CHLD', ended || 'DEFAULT')
        [woken, wake, control].each { |io| io.close }
        exit(become_worker(config, app, order, ios))
      end
      children[pid] = true
      ios.each { |io| io.close }
      control.send("forked\0#{order['serial']}\0#{pid}", 0)
    end
  rescue Errno::ECONNRESET, Errno::EPIPE
    exit!(0)
  end
end

require 'stringio'
Liege.main(c)
