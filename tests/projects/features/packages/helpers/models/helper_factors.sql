select {{ var('factor') }} as factor, '{{ project_name }}' as project
