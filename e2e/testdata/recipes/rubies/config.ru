app = lambda do |env|
  env['rack.input'].read
  [200, {'Content-Type' => 'text/plain'}, ["Ruby #{RUBY_VERSION} for #{env['PATH_INFO']}\n"]]
end
run app
