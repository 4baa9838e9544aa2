{{ config(materialized='table', notes={'of': []}) }}
{{ note() }}
{% if execute %}
    {# another node's config: `notes` is dbt's own object in `graph` too #}
    {% do graph.nodes['model.keeps.first'].config.notes.update({'by': model.name}) %}
    {% do graph.nodes['model.keeps.first'].config.notes['of'].append('second') %}
    {% do graph.nodes['model.keeps.third'].config.notes['of'].insert(0, 'from second') %}
{% endif %}
select '{{ graph.get('kept', {}).get('names', []) | join(',') }}' as names, '{{ graph.kept.macro('x') if execute }}' as shouted
from {{ ref('first') }}
